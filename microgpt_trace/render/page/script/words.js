// A glossary for readers who meet the words of a page for the first time.

export const WORDS = [
  ["array, event", "the values that one operation computes: one row per position, one column per channel"],
  ["position, token", "the text is split into tokens, one at each position; BOS comes before the first token, EOS after the last token"],
  ["L2", "the size of an array: the square root of the sum of its squares"],
  ["residual", "the residual stream: a row of channels for each position, which every layer reads and adds to"],
  ["norm", "scales each row to a standard size before a block reads it"],
  ["q, k, v", "query, key and value: what a position looks for, what it offers, and what it passes on"],
  ["scores", "query times key: how well the query of a position matches each key that it sees"],
  ["weights", "the softmax of the scores: shares that sum to 1, by which the values are mixed"],
  ["head", "one of several attention operations that run side by side, each on separate channels"],
  ["context, out", "the mixed values, and what attention adds to the residual stream"],
  ["up, act, down", "the MLP: expand to more channels (its units), cut off or dampen what is below 0, and shrink back"],
  ["logits, probs", "a number for each token that may come next, and the softmax of these numbers: the probabilities"],
  ["softmax", "exp of each number, divided by the sum of all these exp"],
  ["loss", "the mean of -log P over the tokens that really come next; it is 0 if the model is certain of all of them"],
  ["rank", "the place of a token in the order of probability; the most likely token has rank 1"],
  ["gradient", "d loss / d value: how much the loss changes per unit of change in the number"],
  ["update", "what one training step adds to a parameter"],
];
