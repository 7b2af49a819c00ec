/** The refresh intervals of the slider: integers that are about evenly spaced on a log scale. */

const STOPS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];
const ANY = { min: 1, max: 64, default: 1 };

/** The refresh intervals that a model offers, including its bounds. */
export function intervalsOf(model) {
  const { min, max } = model?.refresh_interval ?? ANY;
  return [...new Set([min, ...STOPS.filter((stop) => stop > min && stop < max), max])];
}

/** Whether a model fills masks; otherwise it writes one token after another, and has no refresh interval. */
export function denoises(model) {
  return model?.refresh_interval !== null;
}

/** The initial settings of both sides: the model's default, and a clearly different interval. */
export function newDials(model) {
  const usual = (model?.refresh_interval ?? ANY).default;
  const other = intervalsOf(model).findLast((stop) => stop <= 8 && stop !== usual) ?? usual;
  return [{ effort: "", interval: usual }, { effort: "", interval: other }];
}

/** A setting in words. */
export function describe(dial, model) {
  if (!denoises(model)) return "Token by token";
  if (dial.effort) return `Effort ${dial.effort}`;
  return dial.interval === 1 ? "Refresh at every step" : `Refresh every ${dial.interval} steps`;
}
