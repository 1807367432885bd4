// Which words of a text a search finds: as the full-text index does, regardless of case and accents.

const TERM = /(-?)(?:"([^"]*)"?|([^\s"]+))(\*?)/gu;
const NO_LETTERS = /[^\p{L}\p{N}]+/u;

/** Returns a function from the words of a segment to the set of those, by place, that the search finds. */
export function finder(search) {
  const terms = parse(search);
  return (words) => {
    const tokens = words.flatMap((word, place) => split(word).map((text) => ({ text, place })));
    const places = terms.flatMap((term) =>
      tokens.flatMap((_, start) => {
        const found = tokens.slice(start, start + term.words.length);
        const fits =
          found.length === term.words.length &&
          found.every(({ text }, number) =>
            term.prefix && number === found.length - 1 ? text.startsWith(term.words[number]) : text === term.words[number],
          );
        return fits ? found.map(({ place }) => place) : [];
      }),
    );
    return new Set(places);
  };
}

/** The terms that must occur: `{words, prefix}`. */
function parse(search) {
  return [...search.matchAll(TERM)]
    .filter(([, minus]) => !minus)
    .map(([, , quoted, bare, star]) => ({
      words: split(quoted ?? bare),
      prefix: Boolean(star) || Boolean(bare?.endsWith("*")),
    }))
    .filter(({ words }) => words.length);
}

const split = (text) =>
  text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().split(NO_LETTERS).filter(Boolean);
