// What a head does in this text: where it looks, and its strongest lines.

import {html, shareBar} from "./dom.js";
import {namedToken} from "./letters.js";
import {percent} from "./numbers.js";

const [LINES, LEAST] = [5, 0.01]; // largest number of lines, and smallest share of a line

/** The shares of a head's attention on the query itself, the previous position, position 0 and earlier
    occurrences of the token, as means over the queries from position 1 on. The last is a mean over queries
    with such occurrences, or null. */
export function sharesOf(run, weights, head) {
	const size = run.length;
	const weight = (query, key) => weights[(head * size + query) * size + key];
	const queries = Array.from({length: size - 1}, (_, n) => n + 1);
	const earlier = query =>
		Array.from({length: query}, (_, key) => key).filter(key => run.tokens[key] === run.tokens[query]);
	const mean = (list, shareAt) =>
		list.length ? list.reduce((sum, query) => sum + shareAt(query), 0) / list.length : null;
	return {
		itself: mean(queries, query => weight(query, query)),
		previous: mean(queries, query => weight(query, query - 1)),
		first: mean(queries, query => weight(query, 0)),
		repeat: mean(
			queries.filter(query => earlier(query).length),
			query => earlier(query).reduce((sum, key) => sum + weight(query, key), 0)
		)
	};
}

const WORDS = {
	itself: "itself",
	previous: "the position before",
	first: "position 0",
	repeat: "the same token earlier, where it occurred"
};

/** These shares in words, with those that the text has. `words` may replace the names of the places. */
export const sharesInWords = (shares, words = WORDS) =>
	Object.entries(words)
		.filter(([place]) => shares[place] !== null)
		.map(([place, name]) => [name, shares[place]]);

/** The card of a head, or null if the page lacks its weights or the text has one token only. */
export function headCard({page, run, weights, head}) {
	const values = weights && run.length > 1 ? run.of(weights, "value") : null;
	if (!values) return null;
	const list = sharesInWords(sharesOf(run, values, head));
	const lines = run.tokens
		.flatMap((_, query) =>
			Array.from({length: query}, (__, key) => ({
				query,
				key,
				share: values[(head * run.length + query) * run.length + key]
			}))
		)
		.filter(({key, share}) => key > 0 && share >= LEAST)
		.toSorted((a, b) => b.share - a.share)
		.slice(0, LINES);
	const name = page.layers > 1 ? `${page.row(weights).layer}.${head}` : head;
	return html.section(
		{class: "card", "aria-label": "This head in this text"},
		html.h2(`Head ${name} in this text`),
		html.p({class: "dim"}, "where it looks, on average from position 1 on; places may overlap"),
		html.ul(
			{class: "shares"},
			list.map(([words, share]) =>
				html.li(html.span(words), shareBar(share), html.span({class: "n"}, `${percent(share)} %`))
			)
		),
		lines.length
			? html.p(
					"Strongest lines to earlier tokens past position 0: ",
					lines.map(({query, key, share}, n) => [
						n ? ", " : "",
						html.b({class: "letters"}, namedToken(run, query)),
						" → ",
						html.b({class: "letters"}, namedToken(run, key)),
						` ${percent(share)} %`
					]),
					"."
				)
			: null
	);
}
