// Numbers and times as people read them. A unit stays on the line of its number.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** 1,234,567 */
export const count = (number) => whole.format(number);

/** 1,234 and 1.23M: three digits where it is long. */
export const brief = (number) => (Math.abs(number) < 10_000 ? whole.format(Math.round(number)) : short.format(number));

/** A rate: 0, 0.25, 3.1, 42, 1.2K */
export function rate(number) {
  if (number < 0.005) return "0";
  if (number < 1) return number.toFixed(2);
  return number < 10 ? number.toFixed(1) : brief(number);
}

const NBSP = "\u00a0";

/** 7 % */
export function share(part, total = 1) {
  const percent = total ? (100 * part) / total : 0;
  return `${percent > 0 && percent < 1 ? percent.toFixed(1) : Math.round(percent)}${NBSP}%`;
}

/** 0.25 s, 4.1 s, 3 min, 2 h 5 min, 3 d 4 h */
export function duration(seconds) {
  const [number, unit] = split(seconds);
  return `${number}${NBSP}${unit}`;
}

function split(seconds) {
  if (seconds < 1) return [seconds.toFixed(2), "s"];
  if (seconds < 9.95) return [seconds.toFixed(1), "s"];
  if (seconds < 90) return [Math.round(seconds), "s"];
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return [minutes, "min"];
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? [`${hours} h ${minutes % 60}`, "min"] : [`${Math.floor(hours / 24)} d ${hours % 24}`, "h"];
}

/** The time of day of an RFC 3339 time, in UTC as in the logs. */
export const clock = (stamp) => `${stamp.slice(11, 19)} UTC`;

/** 64 MiB */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit + 1 < units.length) {
    number /= 1024;
    unit += 1;
  }
  return `${number < 10 && unit ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

export const sum = (numbers) => Object.values(numbers).reduce((one, other) => one + other, 0);

/** `dead_lettered` as words. */
export const words = (name) => name.replaceAll("_", " ");
