// The days that a page shows: they end with the newest night, or where the address says.
import { Button, HStack } from "@chakra-ui/react";
import { useSearchParams } from "react-router-dom";

import { useNights, type UseCaseInfo } from "./client";
import { isDay, plus, today } from "./days";

export const useRange = (usecase: UseCaseInfo, days: number) => {
  const [wanted, setWanted] = useSearchParams();
  const nights = useNights();
  const named = isDay(wanted.get("end"));
  const newest = nights.data?.find((one) => one.name === usecase.name)?.newest ?? "";
  const end = named || newest || today();
  const go = (changes: Record<string, string>) =>
    setWanted((before) => new URLSearchParams({ ...Object.fromEntries(before), ...changes }));
  // Nothing is asked for before it is known where to begin.
  return { start: plus(end, 1 - days), end, newest, ready: Boolean(named) || !nights.isPending, go };
};

type Props = { start: string; end: string; first?: string | null; last?: string | null; onGo: (end: string) => void };

// To the days before, as far as there are any, and to those after.
export const Walk = ({ start, end, first, last, onGo }: Props) => {
  const later = plus(end, 1 + (Date.parse(end) - Date.parse(start)) / 86_400_000);
  return (
    <HStack>
      <Button disabled={first !== undefined && (!first || first >= start)} onClick={() => onGo(plus(start, -1))} size="sm" variant="outline">
        Earlier
      </Button>
      <Button disabled={!last || last <= end} onClick={() => onGo(later)} size="sm" variant="outline">
        Later
      </Button>
    </HStack>
  );
};
