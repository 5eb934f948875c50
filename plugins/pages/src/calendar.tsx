// Days as a grid of weeks: a column a week, a row a weekday, moved through with the arrow keys.
import { Box, Text } from "@chakra-ui/react";
import { useEffect, useRef, type KeyboardEvent } from "react";

import type { Day } from "./client";
import { plus } from "./days";
import { Legend } from "./parts";

// A day as it is shown: what is stale is known a moment later than the rest.
export type Shown = Omit<Day, "state"> & { state: Day["state"] | "stale" };

// A sign and a colour for each state, so that colour is never the only one.
export const STATES: Record<Shown["state"], { sign: string; colour: string; ink: string; word: string }> = {
  present: { sign: "", colour: "green.solid", ink: "green.contrast", word: "present" },
  quarantined: { sign: "!", colour: "yellow.solid", ink: "yellow.contrast", word: "with rows in quarantine" },
  stale: { sign: "~", colour: "orange.solid", ink: "orange.contrast", word: "stale" },
  missing: { sign: "·", colour: "bg.muted", ink: "fg.muted", word: "missing" },
};

export const StatesLegend = () => <Legend marks={Object.values(STATES).map(({ sign, colour, ink, word }) => ({ sign, bg: colour, ink, word }))} />;

const said = (day: Shown) =>
  [
    `${day.day}: ${STATES[day.state].word}`,
    day.state === "missing" ? "" : `${day.rows.toLocaleString()} rows`,
    day.quarantined ? `${day.quarantined.toLocaleString()} in quarantine` : "",
    day.because,
  ]
    .filter(Boolean)
    .join(", ");

// Of each column, the month that begins in it, if one does.
const weeks = (days: Shown[], weekday: number): string[] => {
  const found: string[] = [];
  days.forEach(({ day }, number) => {
    const week = Math.floor((number + weekday) / 7);
    found[week] ??= "";
    if (day.endsWith("-01")) {
      found[week] = new Date(`${day}T00:00Z`).toLocaleString(undefined, { month: "short", timeZone: "UTC" });
    }
  });
  return found;
};

const STEPS: Record<string, number> = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: -7, ArrowRight: 7 };

type Props = { title: string; days: Shown[]; chosen: string; onChoose: (day: string) => void };

export const CalendarGrid = ({ title, days, chosen, onChoose }: Props) => {
  const box = useRef<HTMLDivElement>(null);
  const scrolled = useRef<HTMLDivElement>(null);
  const first = days[0];
  const last = days.at(-1)?.day;
  useEffect(() => {
    // On a narrow screen the newest days are what somebody came for.
    if (scrolled.current) scrolled.current.scrollLeft = scrolled.current.scrollWidth;
  }, [last]);
  if (!first) return null;
  // Of all days one is reached with the tab key, the others from it.
  const entry = days.some((day) => day.day === chosen) ? chosen : last;
  const move = (event: KeyboardEvent<HTMLDivElement>) => {
    const step = STEPS[event.key];
    const from = (event.target as HTMLElement).dataset["day"];
    if (!step || !from) return;
    event.preventDefault();
    box.current?.querySelector<HTMLElement>(`[data-day="${plus(from, step)}"]`)?.focus();
  };
  // Monday is 0.
  const weekday = (new Date(`${first.day}T00:00Z`).getUTCDay() + 6) % 7;
  return (
    <Box>
      <Text fontWeight="semibold" mb={1}>
        {title}
      </Text>
      <Box overflowX="auto" pb={2} ref={scrolled}>
        <Box aria-hidden display="grid" gap="3px" gridAutoColumns="18px" gridAutoFlow="column" h="18px" w="max-content">
          {weeks(days, weekday).map((month, week) => (
            <Text as="span" color="fg.muted" fontSize="xs" key={`${week}`} overflow="visible" w="18px" whiteSpace="nowrap">
              {month}
            </Text>
          ))}
        </Box>
        <Box
          aria-label={`${title} by day; arrow keys move by day and week`}
          display="grid"
          gap="3px"
          gridAutoColumns="18px"
          gridAutoFlow="column"
          gridTemplateRows="repeat(7, 18px)"
          onKeyDown={move}
          ref={box}
          role="group"
          w="max-content"
        >
          {days.map((day, number) => {
            const { sign, colour, ink } = STATES[day.state];
            return (
              <Box
                aria-label={said(day)}
                aria-pressed={day.day === chosen}
                as="button"
                bg={colour}
                borderRadius="xs"
                color={ink}
                cursor="pointer"
                data-day={day.day}
                data-state={day.state}
                fontSize="xs"
                gridRowStart={number === 0 ? weekday + 1 : undefined}
                key={day.day}
                lineHeight="18px"
                onClick={() => onChoose(day.day)}
                outline={day.day === chosen ? "2px solid" : undefined}
                outlineColor="fg"
                tabIndex={day.day === entry ? 0 : -1}
                title={said(day)}
              >
                {sign}
              </Box>
            );
          })}
        </Box>
      </Box>
    </Box>
  );
};
