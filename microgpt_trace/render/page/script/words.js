// The words of a page, for who meets them for the first time.

export const WORDS = [
  ["array, event", "the numbers that one operation gives: a row for each position, a column for each channel"],
  ["position, token", "the text is read as tokens, one at each position; BOS begins it, EOS is what follows its last"],
  ["L2", "the size of an array: the square root of the sum of its squares"],
  ["residual", "the stream that each layer reads and adds to, a row of channels for each position"],
  ["norm", "divides a row by its root mean square, so that its size does not matter"],
  ["q, k, v", "query, key, value: what a position asks for, what it answers to, and what it hands on"],
  ["scores", "query times key: how well a position's question fits each position that it sees"],
  ["weights", "softmax of the scores: the shares, summing to 1, in which the values are mixed"],
  ["head", "one of several attentions side by side, each with channels of its own"],
  ["context, out", "the mixed values, and what attention adds to the stream"],
  ["up, act, down", "the MLP: to more channels (its units), what is below 0 cut off or dampened, and back"],
  ["logits, probs", "a number for each token that may follow, and its softmax: the probabilities"],
  ["softmax", "exp of each number, over the sum of all of them"],
  ["loss", "the mean of -log P of the tokens that do follow: 0 were all of them certain"],
  ["rank", "1 where a token is the likeliest one"],
  ["d loss / d it", "the gradient: how much the loss moves for each unit that the number moves"],
  ["update", "what one step of training adds to a parameter"],
];
