/** The dial: the refresh intervals that the slider stops at, evenly spaced on a log scale as far as whole numbers allow. */

const STOPS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];
const ANY = { min: 1, max: 64, default: 1 };

/** Refresh intervals that a model offers, its own bounds among them. */
export function intervalsOf(model) {
  const { min, max } = model?.refresh_interval ?? ANY;
  return [...new Set([min, ...STOPS.filter((stop) => stop > min && stop < max), max])];
}

/** The two dials before anybody touched them: the model's default, and one that is plainly different from it. */
export function newDials(model) {
  const usual = (model?.refresh_interval ?? ANY).default;
  const other = intervalsOf(model).findLast((stop) => stop <= 8 && stop !== usual) ?? usual;
  return [{ effort: "", interval: usual }, { effort: "", interval: other }];
}

/** What a dial says, in words. */
export function describe(dial) {
  if (dial.effort) return `Effort ${dial.effort}`;
  return dial.interval === 1 ? "Refresh at every step" : `Refresh every ${dial.interval} steps`;
}
