// Partitions are days without a time: they are counted in UTC, so that no zone moves them.
const DAY = 86_400_000;

export const plus = (day: string, days: number): string =>
  new Date(Date.parse(`${day}T00:00Z`) + days * DAY).toISOString().slice(0, 10);

// A day as the address bar gives it; "" for what is none.
export const isDay = (said: string | null): string =>
  said && /^\d{4}-\d{2}-\d{2}$/.test(said) && !Number.isNaN(Date.parse(`${said}T00:00Z`)) ? said : "";

export const today = (): string => new Date().toISOString().slice(0, 10);

// Every day from one to another, both included.
export const between = (start: string, end: string): string[] => {
  const found: string[] = [];
  for (let day = start; day <= end; day = plus(day, 1)) found.push(day);
  return found;
};
