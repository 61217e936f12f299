// What an address asks of the index of samples: facets ("a|b") and ranges ("1..5").

/** One condition: {facet: texts that there are} or {range: [low, high]} or neither, and in `wrong` what of it the library does not have. */
export function condition(index, key, value) {
  if (index.values[key]) {
    const asked = value.split("|");
    const [there, strange] = [true, false].map((known) => asked.filter((text) => index.values[key].includes(text) === known));
    return { facet: there.length ? new Set(there) : null, wrong: strange.map((text) => `${key} “${text}”`) };
  }
  if (!index.columns[key]) return { wrong: [`“${key}”`] };
  const limits = value.split("..").map((text) => (text.trim() === "" ? null : Number(text)));
  const [low, high] = limits.length === 2 ? limits : [NaN, NaN];
  if (![low, high].every((limit) => limit === null || Number.isFinite(limit))) return { wrong: [`${key} “${value}” (a range is written 1..5)`] };
  if (low !== null && high !== null && low > high) return { wrong: [`${key} “${value}” (its ends are the wrong way round)`] };
  return { range: [low, high], wrong: [] };
}

/** The sentence about what an address asks for in vain. */
export function inVain(wrong) {
  return `This address asks for ${wrong.join(", ")}, which the library does not have; the rest applies.`;
}
