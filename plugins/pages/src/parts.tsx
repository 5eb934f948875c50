// The small parts that pages are made of.
import { Badge, Box, Heading, HStack, Link, Skeleton, Stack, Table, Text } from "@chakra-ui/react";
import type { ReactNode } from "react";
import { Link as RouterLink } from "react-router-dom";

import { Refused, type Level } from "./client";

// A shape and a word for each level, so that colour is never the only sign.
const LEVELS: Record<Level, { shape: string; word: string; palette: string }> = {
  quiet: { shape: "✓", word: "quiet", palette: "green" },
  watch: { shape: "▲", word: "watch", palette: "orange" },
  act: { shape: "■", word: "act", palette: "red" },
};

export const LevelMark = ({ level }: { level: Level }) => (
  <Badge colorPalette={LEVELS[level].palette} size="lg" variant="surface">
    <span aria-hidden>{LEVELS[level].shape}</span> {LEVELS[level].word}
  </Badge>
);

export const METRICS: Record<string, string> = { roc_auc: "ROC AUC", pr_auc: "PR AUC" };

// The zone that the viewer has chosen in Airflow; the browser's own where it keeps none.
const zone = (): string | undefined => {
  try {
    return (JSON.parse(localStorage.getItem("timezone") ?? "null") as string | null) ?? undefined;
  } catch {
    return undefined;
  }
};

// A moment in the viewer's zone, and in UTC where somebody wants to know.
export const Time = ({ at }: { at: string }) => {
  const moment = new Date(at);
  const here = moment.toLocaleString(undefined, {
    year: "numeric",
    month: "short",
    day: "numeric",
    hour: "2-digit",
    minute: "2-digit",
    timeZone: zone(),
    timeZoneName: "short",
  });
  return (
    <time dateTime={at} title={`${moment.toISOString().slice(0, 16).replace("T", " ")} UTC`}>
      {here}
    </time>
  );
};

export const Fact = ({ name, children, note }: { name: string; children: ReactNode; note?: ReactNode }) => (
  <Box as="div">
    <Text as="dt" color="fg.muted" fontSize="sm">
      {name}
    </Text>
    <Box as="dd" fontWeight="medium" m={0}>
      {children}
      {note ? (
        <Text color="fg.muted" fontSize="sm" fontWeight="normal">
          {note}
        </Text>
      ) : null}
    </Box>
  </Box>
);

export const Panel = ({ title, aside, children }: { title: ReactNode; aside?: ReactNode; children: ReactNode }) => (
  <Box as="section" bg="bg.panel" borderColor="border" borderRadius="lg" borderWidth={1} p={{ base: 4, md: 5 }}>
    <HStack align="baseline" flexWrap="wrap" justify="space-between" mb={3}>
      <Heading as="h2" size="md">
        {title}
      </Heading>
      {aside}
    </HStack>
    {children}
  </Box>
);

export const Loading = ({ what }: { what: string }) => (
  <Stack aria-busy aria-label={`Loading ${what}`} gap={3} role="status">
    <Skeleton height="6" width="40%" />
    <Skeleton height="24" />
  </Stack>
);

export const Nothing = ({ children }: { children: ReactNode }) => <Text color="fg.muted">{children}</Text>;

// What went wrong, by which rule, where, and what to do about it.
export const Failure = ({ error }: { error: Error }) => {
  const told = error instanceof Refused ? error.problem : { message: error.message, rule: "", where: "", cure: "" };
  return (
    <Box bg="bg.error" borderRadius="md" color="fg.error" p={4} role="alert">
      <Text fontWeight="semibold">{told.message}</Text>
      {(["rule", "where", "cure"] as const).map((name) =>
        told[name] ? (
          <Text fontSize="sm" key={name}>
            <b>{name}:</b> {told[name]}
          </Text>
        ) : null,
      )}
    </Box>
  );
};

// To another page of Airflow's, without loading it anew. A link is a box of its own: it has to be told that
// the name of a run may wrap anywhere.
export const To = ({ path, children }: { path: string; children: ReactNode }) => (
  <Link asChild colorPalette="blue" overflowWrap="anywhere" variant="underline">
    <RouterLink to={path}>{children}</RouterLink>
  </Link>
);

// To a document of its own, such as a report.
export const Out = ({ href, children }: { href: string; children: ReactNode }) => (
  <Link colorPalette="blue" href={href} overflowWrap="anywhere" rel="noopener" target="_blank" variant="underline">
    {children}
  </Link>
);

export const Rows = ({ columns, children }: { columns: string[]; children: ReactNode }) => (
  <Table.ScrollArea>
    <Table.Root size="sm">
      <Table.Header>
        <Table.Row>
          {columns.map((name) => (
            <Table.ColumnHeader key={name}>{name}</Table.ColumnHeader>
          ))}
        </Table.Row>
      </Table.Header>
      <Table.Body>{children}</Table.Body>
    </Table.Root>
  </Table.ScrollArea>
);

// What signs in a grid mean: a sign and a word for each, so that colour is never the only difference.
export const Legend = ({ marks }: { marks: readonly { sign: string; bg: string; ink: string; word: string }[] }) => (
  <HStack as="ul" flexWrap="wrap" gap={4} listStyleType="none" m={0} p={0}>
    {marks.map(({ sign, bg, ink, word }) => (
      <HStack as="li" gap={1} key={word}>
        <Box aria-hidden bg={bg} borderRadius="xs" color={ink} fontSize="xs" h="16px" lineHeight="16px" textAlign="center" w="16px">
          {sign}
        </Box>
        <Text fontSize="sm">{word}</Text>
      </HStack>
    ))}
  </HStack>
);
