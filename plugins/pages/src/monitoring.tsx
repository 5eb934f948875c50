// The monitoring page: quality before and after the truth, drift by feature and day, alerts, requests, cost.
import { Badge, Box, Button, HStack, Input, Stack, Table, Text } from "@chakra-ui/react";
import { useMemo, type ReactNode } from "react";
import { useSearchParams } from "react-router-dom";

import { LineWithInterval } from "./chart";
import { address, useDistribution, useMonitoring, type Monitoring, type UseCaseInfo } from "./client";
import { between, isDay } from "./days";
import { Failure, Legend, Loading, METRICS, Nothing, Out, Panel, Rows, Time } from "./parts";
import { useRange, Walk } from "./range";

const SHOWN_DAYS = 28;
const PALETTES: Record<string, string> = { quiet: "green", watch: "orange", drift: "red" };

export const MonitoringPage = ({ usecase }: { usecase: UseCaseInfo }) => {
  const [wanted] = useSearchParams();
  const { start, end, newest, ready, go } = useRange(usecase, SHOWN_DAYS);
  const { data, error } = useMonitoring(usecase.name, start, end, ready);
  if (!data) return error ? <Failure error={error} /> : <Loading what="what monitoring has recorded" />;
  const column = wanted.get("column");
  return (
    <Stack gap={4}>
      {error ? <Failure error={error} /> : null}
      <Panel
        aside={<Walk end={end} last={newest} onGo={(day) => go({ end: day })} start={start} />}
        title={`Quality, ${start} to ${end}`}
      >
        <Quality data={data} />
      </Panel>
      <Panel title="Drift">
        <HeatMap chosen={column ?? ""} data={data} onChoose={(name) => go({ column: name })} />
      </Panel>
      {column ? <Detail column={column} day={isDay(wanted.get("day")) || end} go={go} usecase={usecase} /> : null}
      <Panel title="Alerts">
        <Alerts data={data} />
      </Panel>
      <Panel title="Requests for a new model">
        <Requests data={data} />
      </Panel>
      <Panel title="Cost">
        <Costs data={data} />
      </Panel>
    </Stack>
  );
};

const Quality = ({ data }: { data: Monitoring }) => {
  const points = useMemo(() => data.quality.map((one) => ({ day: one.day, value: one.observed, low: one.low, high: one.high })), [data]);
  const estimated = useMemo(() => ({ name: "estimated before", values: data.quality.map((one) => one.estimated) }), [data]);
  const metric = METRICS[data.metric] ?? data.metric;
  if (!points.length) return <Nothing>Nothing was judged or estimated on these days.</Nothing>;
  return (
    <Box>
      <Text color="fg.muted" fontSize="sm">
        {metric}: the line is what was observed, with its interval; the dashes what was estimated before the truth arrived
      </Text>
      <LineWithInterval beside={estimated} height={200} points={points} title={metric} />
    </Box>
  );
};

// How far a column is from the reference, in units of what ordinary days stay below.
const SHADES = [
  { from: 2, sign: "■", bg: "red.solid", ink: "red.contrast", word: "beyond twice its limit" },
  { from: 1, sign: "▲", bg: "orange.solid", ink: "orange.contrast", word: "beyond its limit" },
  { from: 0.5, sign: "", bg: "yellow.muted", ink: "fg", word: "half way to its limit" },
  { from: 0, sign: "", bg: "bg.muted", ink: "fg", word: "ordinary" },
];
const shade = (ratio: number) => SHADES.find(({ from }) => ratio >= from);

const HeatMap = ({ data, chosen, onChoose }: { data: Monitoring; chosen: string; onChoose: (column: string) => void }) => {
  const days = between(data.start, data.end);
  const verdicts = new Map(data.verdicts.map((one) => [one.day, one]));
  if (!data.verdicts.length) return <Nothing>No day of these was checked: the DAG monitor does.</Nothing>;
  return (
    <Stack gap={3}>
      <Legend marks={SHADES} />
      <Box maxH="70vh" overflow="auto" tabIndex={0} aria-label="Distance of each feature on each day" role="region">
        <Box as="table" css={{ borderCollapse: "separate", borderSpacing: "2px" }} fontSize="xs">
          <thead>
            <tr>
              <Box as="th" textAlign="start">
                Verdict
              </Box>
              {days.map((day) => {
                const verdict = verdicts.get(day);
                return (
                  <th key={day} scope="col" title={verdict ? `${day}: ${verdict.verdict}${verdict.note ? `, ${verdict.note}` : ""}` : `${day}: not checked`}>
                    <Text fontWeight="normal">{day.slice(8)}</Text>
                    <Badge colorPalette={PALETTES[verdict?.verdict ?? ""] ?? "gray"} size="xs">
                      {verdict?.verdict.slice(0, 1) ?? "–"}
                    </Badge>
                  </th>
                );
              })}
            </tr>
          </thead>
          <tbody>
            {data.moved.map(({ column, ratios }) => (
              <tr key={column}>
                <Box as="th" textAlign="start">
                  <Button fontSize="xs" fontWeight={column === chosen ? "bold" : "normal"} h="auto" minW={0} onClick={() => onChoose(column)} p={0} variant="plain">
                    {column}
                  </Button>
                </Box>
                {ratios.map((ratio, place) => {
                  const found = ratio === null ? undefined : shade(ratio);
                  const day = days[place] ?? "";
                  return (
                    <Box
                      as="td"
                      bg={found?.bg}
                      borderRadius="xs"
                      color={found?.ink}
                      data-day={day}
                      h="18px"
                      key={day}
                      minW="22px"
                      textAlign="center"
                      title={ratio === null ? `${column}, ${day}: not compared` : `${column}, ${day}: ${ratio.toFixed(2)} of its limit`}
                    >
                      {found?.sign}
                    </Box>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </Box>
      </Box>
    </Stack>
  );
};

const Detail = ({ usecase, column, day, go }: { usecase: UseCaseInfo; column: string; day: string; go: (changes: Record<string, string>) => void }) => {
  const { data, error } = useDistribution(usecase.name, column, day);
  const most = Math.max(...(data?.bars ?? []).flatMap((bar) => [bar.reference, bar.day]), Number.EPSILON);
  const share = (value: number) => `${(100 * value).toFixed(1)}%`;
  return (
    <Panel
      aside={
        <HStack>
          <label htmlFor="day">Day</label>
          <Input id="day" onChange={(event) => go({ day: event.currentTarget.value })} size="sm" type="date" value={day} w="fit-content" />
        </HStack>
      }
      title={column}
    >
      {error ? <Failure error={error} /> : null}
      {data ? (
        <Stack gap={3}>
          <Text fontSize="sm">
            Grey is what version {data.version} learned from, blue is {data.day}. Missing: {share(data.missing_reference)} then, {share(data.missing_day)} now.
          </Text>
          <Rows columns={["From", "Then", "Now", ""]}>
            {data.bars.map((bar) => (
              <Table.Row key={bar.name}>
                <Table.Cell>{bar.name}</Table.Cell>
                <Table.Cell>{share(bar.reference)}</Table.Cell>
                <Table.Cell>{share(bar.day)}</Table.Cell>
                <Table.Cell w="50%">
                  <Box aria-hidden bg="fg.muted" borderRadius="xs" h="6px" mb="2px" opacity={0.5} w={`${(100 * bar.reference) / most}%`} />
                  <Box aria-hidden bg="blue.solid" borderRadius="xs" h="6px" w={`${(100 * bar.day) / most}%`} />
                </Table.Cell>
              </Table.Row>
            ))}
          </Rows>
        </Stack>
      ) : error ? null : (
        <Loading what={column} />
      )}
    </Panel>
  );
};

const SEVERITIES: Record<string, string> = { info: "gray", warning: "orange", critical: "red" };

const Alerts = ({ data }: { data: Monitoring }) =>
  data.alerts.length ? (
    <Rows columns={["Raised", "Severity", "Kind", "About", "Message", "Times", "Runbook"]}>
      {data.alerts.map((alert) => (
        <Table.Row key={`${alert.at} ${alert.kind} ${alert.subject}`}>
          <Table.Cell>
            <Time at={alert.at} />
          </Table.Cell>
          <Table.Cell>
            <Badge colorPalette={SEVERITIES[alert.severity] ?? "gray"}>{alert.severity}</Badge>
          </Table.Cell>
          <Table.Cell>{alert.kind.replace("_", " ")}</Table.Cell>
          <Table.Cell>{alert.subject}</Table.Cell>
          <Wide>{alert.message}</Wide>
          <Table.Cell>{alert.count}</Table.Cell>
          <Table.Cell>
            <Out href={address(`nightshift/docs/runbooks/${alert.kind}.md`)}>runbook</Out>
          </Table.Cell>
        </Table.Row>
      ))}
    </Rows>
  ) : (
    <Nothing>None about these days.</Nothing>
  );

const Wide = ({ children }: { children: ReactNode }) => (
  <Table.Cell minW="16rem" whiteSpace="normal">
    {children}
  </Table.Cell>
);

// The first of several reasons, and the others for who asks.
const Several = ({ lines: [first, ...others] }: { lines: string[] }) => (
  <>
    {first}
    {others.length ? (
      <details>
        <summary>
          and {others.length} more {others.length === 1 ? "reason" : "reasons"}
        </summary>
        <Box as="ul" ps={4}>
          {others.map((line) => (
            <li key={line}>{line}</li>
          ))}
        </Box>
      </details>
    ) : null}
  </>
);

const Requests = ({ data }: { data: Monitoring }) =>
  data.requests.length ? (
    <Rows columns={["Night", "By", "Why", "State", "What came of it"]}>
      {data.requests.map((one) => (
        <Table.Row key={`${one.night} ${one.by} ${one.state}`}>
          <Table.Cell>{one.night}</Table.Cell>
          <Table.Cell>{one.by}</Table.Cell>
          <Wide>
            <Several lines={one.reasons} />
          </Wide>
          <Table.Cell>{one.state}</Table.Cell>
          <Wide>
            {one.version ? `version ${one.version}. ` : ""}
            <Several lines={one.outcome} />
          </Wide>
        </Table.Row>
      ))}
    </Rows>
  ) : (
    <Nothing>None was made on these days.</Nothing>
  );

const Costs = ({ data }: { data: Monitoring }) =>
  data.costs.length ? (
    <Rows columns={["Day", `Night, ${data.costs[0]?.unit ?? ""}`, "For 1,000 predictions"]}>
      {data.costs.toReversed().map((one) => (
        <Table.Row key={one.day}>
          <Table.Cell>{one.day}</Table.Cell>
          <Table.Cell>{one.night?.toPrecision(3) ?? "–"}</Table.Cell>
          <Table.Cell>{one.per_thousand?.toPrecision(3) ?? "–"}</Table.Cell>
        </Table.Row>
      ))}
    </Rows>
  ) : (
    <Nothing>No task of these days was metered, or its records are not folded yet.</Nothing>
  );
