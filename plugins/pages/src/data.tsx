// The data page: which day is there in which layer, and all that is known of one day.
import { Badge, Box, Button, Code, HStack, Input, SimpleGrid, Stack, Table, Text } from "@chakra-ui/react";
import { useState, type ReactNode } from "react";
import { useSearchParams } from "react-router-dom";

import { Action } from "./action";
import { CalendarGrid, StatesLegend, type Shown } from "./calendar";
import { address, useCalendar, useDay, useQuarantined, useStale, type Day, type DayDetail, type StaleDay, type UseCaseInfo } from "./client";
import { isDay } from "./days";
import { Graph, type Edge, type Node } from "./graph";
import { Failure, Loading, Nothing, Out, Panel, Rows, Time } from "./parts";
import { useRange, Walk } from "./range";

const SHOWN_DAYS = 182;
const LAYERS = { raw: "Raw", features: "Features", predictions: "Predictions" } as const;

export const DataPage = ({ usecase }: { usecase: UseCaseInfo }) => {
  const [wanted] = useSearchParams();
  const { start, end, ready, go } = useRange(usecase, SHOWN_DAYS);
  const { data, error } = useCalendar(usecase.name, start, end, ready);
  const stale = useStale(usecase.name, start, end, ready);
  const chosen = isDay(wanted.get("day"));
  if (!data) return error ? <Failure error={error} /> : <Loading what="the calendar" />;
  return (
    <Stack gap={4}>
      {error ? <Failure error={error} /> : null}
      <Panel
        aside={
          <HStack flexWrap="wrap" gap={4}>
            {usecase.dbt_docs ? <Out href={address(`nightshift/reports/${usecase.name}/${usecase.dbt_docs}`)}>dbt docs</Out> : null}
            <Walk end={end} first={data.first} last={data.last} onGo={(day) => go({ end: day })} start={start} />
          </HStack>
        }
        title={`${start} to ${end}`}
      >
        {data.first ? (
          <Stack gap={4}>
            <HStack flexWrap="wrap" gap={6}>
              <StatesLegend />
              {stale.isPending ? <Nothing>looking for what is stale …</Nothing> : null}
            </HStack>
            {stale.error ? <Failure error={stale.error} /> : null}
            {Object.entries(LAYERS).map(([layer, title]) => (
              <CalendarGrid chosen={chosen} days={marked(data.layers[layer] ?? [], stale.data ?? [], layer)} key={layer} onChoose={(day) => go({ day })} title={title} />
            ))}
          </Stack>
        ) : (
          <Nothing>Nothing has landed yet: trigger the DAG {usecase.name}.bootstrap with a range of days.</Nothing>
        )}
      </Panel>
      {chosen ? (
        <DayPanel day={chosen} key={chosen} stale={(stale.data ?? []).filter((one) => one.day === chosen)} usecase={usecase} />
      ) : (
        <Nothing>Choose a day to see its versions, its validations and what it was made from.</Nothing>
      )}
    </Stack>
  );
};

const marked = (days: Day[], stale: StaleDay[], layer: string): Shown[] => {
  const because = new Map(stale.filter((one) => one.layer === layer).map((one) => [one.day, one.because]));
  return days.map((day) => (because.has(day.day) ? { ...day, state: "stale", because: because.get(day.day) ?? "" } : day));
};

const DayPanel = ({ usecase, day, stale }: { usecase: UseCaseInfo; day: string; stale: StaleDay[] }) => {
  const { data, error } = useDay(usecase.name, day);
  if (!data) return error ? <Failure error={error} /> : <Loading what={day} />;
  return (
    <Panel title={`Partition ${day}`}>
      <Stack gap={6}>
        {error ? <Failure error={error} /> : null}
        <Actions data={data} day={day} stale={stale} usecase={usecase} />
        {stale.length ? (
          <Box>
            {stale.map(({ layer, because }) => (
              <Text key={layer}>
                <Badge colorPalette="orange">stale</Badge> {layer}: {because}
              </Text>
            ))}
          </Box>
        ) : null}
        {data.quarantine.map((aside) => (
          <Quarantine aside={aside} day={day} key={aside.suite} usecase={usecase} />
        ))}
        <Versions data={data} />
        <Validations data={data} usecase={usecase} />
        <Lineage data={data} />
      </Stack>
    </Panel>
  );
};

const STAGES = ["features", "predictions", "monitoring"];

// A night makes some tables of a day known, and a later one the others.
const Actions = ({ usecase, day, data, stale }: { usecase: UseCaseInfo; day: string; data: DayDetail; stale: StaleDay[] }) => {
  const nights = stale.map((one) => one.night).sort();
  return (
    <HStack align="start" flexWrap="wrap" gap={3}>
      {data.landed_by.map(({ night, tables }) => (
        <Action
          conf={{ partition: night }}
          dag="ingest"
          does={`Asks the sources again for what the night of ${night} makes known, ${tables.join(" and ")} of ${day} among it. What has changed becomes a new version; the DAGs after it follow.`}
          key={night}
          label={data.landed_by.length > 1 ? `Ingest night ${night} again` : "Ingest again"}
          usecase={usecase}
        />
      ))}
      <Action
        conf={{ start: day, end: day, stages: STAGES }}
        dag="rebuild"
        does={`Builds features, predictions and monitoring of ${day} again from what has landed. What does not change gets no new version.`}
        label="Rebuild"
        usecase={usecase}
      />
      {nights.length ? (
        <Action
          conf={{ start: nights[0], end: nights.at(-1), stages: STAGES, only_stale: true }}
          dag="rebuild"
          does={`Builds what is stale of the nights ${nights[0]} to ${nights.at(-1)} again, and nothing else.`}
          label="Rebuild what is stale"
          usecase={usecase}
        />
      ) : null}
    </HStack>
  );
};

const Part = ({ title, children }: { title: string; children: ReactNode }) => (
  <Box>
    <Text as="h3" fontWeight="semibold" mb={2}>
      {title}
    </Text>
    {children}
  </Box>
);

type Edits = Record<string, Record<string, string>>;
type QuarantinedSuite = DayDetail["quarantine"][number];

const text = (value: unknown) => (value === null || value === undefined ? "" : String(value));

// Rows in quarantine, with the rule that each broke and why; who may replay them may mend them first.
const Quarantine = ({ usecase, day, aside }: { usecase: UseCaseInfo; day: string; aside: QuarantinedSuite }) => {
  const { suite, rows, rules, night } = aside;
  const [offset, setOffset] = useState(0);
  const [edits, setEdits] = useState<Edits>({});
  const { data, error } = useQuarantined(usecase.name, day, suite, offset);
  const broken = Object.entries(rules).map(([rule, number]) => `${rule} ${number}`);
  const edited = Object.keys(edits).length;
  const edit = (row: string, column: string, value: string, original: string) =>
    setEdits((before) => {
      const { [column]: _, ...others } = before[row] ?? {};
      const { [row]: __, ...rest } = before;
      const changed = value === original ? others : { ...others, [column]: value };
      return Object.keys(changed).length ? { ...rest, [row]: changed } : rest;
    });
  return (
    <Part title={`${rows} rows of ${suite} in quarantine: ${broken.join(", ")}`}>
      {night ? (
        <Box mb={3}>
          <Action
            conf={{ partition: night, ...(edited ? { fixes: { [suite]: { [day]: nulled(edits) } } } : {}) }}
            dag="replay_quarantine"
            does={`${edited ? `Keeps the new values of ${edited} ${edited === 1 ? "row" : "rows"} for good, then judges` : "Judges"} what the night of ${night} put aside, these rows among it, by today's rules and fixes. What passes lands as a new version; the DAGs after it follow.`}
            label={edited ? "Fix and replay" : "Replay quarantine"}
            onStarted={() => setEdits({})}
            {...(edited ? { reason: "reason" } : {})}
            usecase={usecase}
          />
        </Box>
      ) : (
        <Nothing>These rows are made from others: mend those or the rule, and rebuild the day.</Nothing>
      )}
      {error ? <Failure error={error} /> : null}
      {data ? (
        <Rows columns={["Rule", "Why", "Row"]}>
          {data.rows.map((kept) => (
            <Table.Row key={kept.row_id + kept.rule}>
              <Table.Cell verticalAlign="top">{kept.rule}</Table.Cell>
              <Table.Cell minW="16rem" verticalAlign="top" whiteSpace="normal">
                {kept.reason}
              </Table.Cell>
              <Table.Cell>
                <details>
                  <summary>
                    {kept.row_id.slice(0, 12)}
                    {kept.fixed ? ", fixed: waits for a replay" : ""}
                    {edits[kept.row_id] ? ", edited" : ""}
                  </summary>
                  <SimpleGrid alignItems="center" columns={2} fontSize="sm" gapX={4} gapY={1}>
                    {Object.entries(kept.fixed ?? kept.row).map(([name, value]) => (
                      <Box display="contents" key={name}>
                        <Text color="fg.muted">{name}</Text>
                        {data.personal.includes(name) ? (
                          <Text title="Personal data: mend it with `nightshift quarantine fix`. What a run is given can be read by everybody who may read its DAG.">
                            {value === null ? "–" : text(value)}
                          </Text>
                        ) : night && usecase.may.includes("replay_quarantine") ? (
                          <Input
                            aria-label={`${name} of row ${kept.row_id.slice(0, 12)}`}
                            onChange={(event) => edit(kept.row_id, name, event.currentTarget.value, text(value))}
                            placeholder="null"
                            size="xs"
                            value={edits[kept.row_id]?.[name] ?? text(value)}
                          />
                        ) : (
                          <Text>{value === null ? "–" : text(value)}</Text>
                        )}
                      </Box>
                    ))}
                  </SimpleGrid>
                </details>
              </Table.Cell>
            </Table.Row>
          ))}
        </Rows>
      ) : error ? null : (
        <Loading what="rows in quarantine" />
      )}
      {data && data.total > 20 ? (
        <HStack mt={2}>
          <Button disabled={offset === 0} onClick={() => setOffset(offset - 20)} size="xs" variant="outline">
            Before
          </Button>
          <Text fontSize="sm">
            {offset + 1} to {Math.min(offset + 20, data.total)} of {data.total}
          </Text>
          <Button disabled={offset + 20 >= data.total} onClick={() => setOffset(offset + 20)} size="xs" variant="outline">
            Next
          </Button>
        </HStack>
      ) : null}
    </Part>
  );
};

// A field that was emptied means null.
const nulled = (edits: Edits) =>
  Object.fromEntries(
    Object.entries(edits).map(([row, values]) => [row, Object.fromEntries(Object.entries(values).map(([name, value]) => [name, value || null]))]),
  );

const short = (hash: string) => (
  <Code fontSize="xs" title={hash}>
    {hash.slice(0, 12)}
  </Code>
);

const Versions = ({ data }: { data: DayDetail }) => (
  <>
    <Part title="Raw versions">
      {data.raw.length ? (
        <Rows columns={["Table", "Version", "Landed", "As of", "Rows in", "Accepted", "Quarantined", "Fixed", "Content", "Manifest"]}>
          {data.raw.map((one) => (
            <Table.Row key={`${one.source}.${one.table} ${one.version}`}>
              <Table.Cell>
                {one.source}.{one.table}
              </Table.Cell>
              <Table.Cell>
                {one.version} {one.current ? <Badge colorPalette="green">current</Badge> : null}
              </Table.Cell>
              <Table.Cell>
                <Time at={one.extracted_at} />
              </Table.Cell>
              <Table.Cell>
                <Time at={one.as_of} />
              </Table.Cell>
              <Table.Cell>{one.rows_in.toLocaleString()}</Table.Cell>
              <Table.Cell>{one.accepted.toLocaleString()}</Table.Cell>
              <Table.Cell>{one.quarantined.toLocaleString()}</Table.Cell>
              <Table.Cell>{one.fixed.toLocaleString()}</Table.Cell>
              <Table.Cell>{short(one.content_hash)}</Table.Cell>
              <Table.Cell>
                <details>
                  <summary>query, object</summary>
                  <Code fontSize="xs" whiteSpace="pre-wrap">
                    {one.query}
                  </Code>
                  <br />
                  <Code fontSize="xs">{one.object_key}</Code>
                </details>
              </Table.Cell>
            </Table.Row>
          ))}
        </Rows>
      ) : (
        <Nothing>Nothing has landed for this day.</Nothing>
      )}
    </Part>
    <Part title="Published versions">
      {data.published.length ? (
        <Rows columns={["Layer", "Table version", "Published", "Rows", "Content"]}>
          {data.published.map((one) => (
            <Table.Row key={`${one.layer} ${one.table_version}`}>
              <Table.Cell>{one.layer}</Table.Cell>
              <Table.Cell>{one.table_version}</Table.Cell>
              <Table.Cell>
                <Time at={one.published_at} />
              </Table.Cell>
              <Table.Cell>{one.rows.toLocaleString()}</Table.Cell>
              <Table.Cell>{short(one.content_hash)}</Table.Cell>
            </Table.Row>
          ))}
        </Rows>
      ) : (
        <Nothing>Nothing of this day is published.</Nothing>
      )}
    </Part>
  </>
);

const VERDICTS: Record<string, string> = { holds: "green", warned: "yellow", quarantined: "orange", stopped: "red" };

const Validations = ({ usecase, data }: { usecase: UseCaseInfo; data: DayDetail }) => (
  <Part title="Validations">
    {data.validations.length ? (
      <Rows columns={["Suite", "Verdict", "Rows in", "Quarantined", "Rules", "Report"]}>
        {data.validations.map((one) => {
          const broken = one.rules.filter((rule) => rule.verdict !== "holds" && rule.verdict !== "not judged");
          return (
            <Table.Row key={one.suite}>
              <Table.Cell>{one.suite}</Table.Cell>
              <Table.Cell>
                <Badge colorPalette={VERDICTS[one.verdict] ?? "gray"}>{one.verdict}</Badge>
              </Table.Cell>
              <Table.Cell>{one.rows_in.toLocaleString()}</Table.Cell>
              <Table.Cell>{one.quarantined.toLocaleString()}</Table.Cell>
              <Table.Cell whiteSpace="normal">
                {one.rules.length - broken.length} of {one.rules.length} hold
                {broken.map((rule) => (
                  <Text fontSize="sm" key={rule.rule}>
                    {rule.rule}: {rule.seen}
                  </Text>
                ))}
              </Table.Cell>
              <Table.Cell>
                <Out href={address(`nightshift/reports/${usecase.name}/${one.report}`)}>page</Out>
              </Table.Cell>
            </Table.Row>
          );
        })}
      </Rows>
    ) : (
      <Nothing>No page of a validation of this day is kept on this machine.</Nothing>
    )}
  </Part>
);

// From the raw partitions that were read, by what was built, to the model that scored.
const Lineage = ({ data }: { data: DayDetail }) => {
  const { model_version: model, model_hash, feature_version } = data.predictions_made;
  const newest = (layer: string) => data.published.filter((one) => one.layer === layer).at(-1);
  const features = feature_version ?? newest("features")?.content_hash;
  const rows = (layer: string) => `${newest(layer)?.rows.toLocaleString() ?? "no"} rows`;
  if (!features) return null;
  const nodes: Node[] = [
    ...data.features_read.map((read) => ({
      id: read.table,
      column: 0,
      title: read.table,
      text: read.partitions === 1 ? read.first : `${read.first} to ${read.last}`,
      more: Object.entries(read.versions)
        .map(([day, version]) => `${day} version ${version}`)
        .join("\n"),
    })),
    { id: "features", column: 1, title: "Features", text: features.slice(0, 12), more: features },
    ...(model
      ? [
          { id: "model", column: 1, title: `Model, version ${model}`, text: (model_hash ?? "").slice(0, 12), more: model_hash ?? "" },
          { id: "predictions", column: 2, title: "Predictions", text: rows("predictions"), more: newest("predictions")?.content_hash ?? "" },
        ]
      : []),
  ];
  const edges: Edge[] = [
    ...data.features_read.map((read): Edge => [read.table, "features"]),
    ...(model ? ([["features", "predictions"], ["model", "predictions"]] as Edge[]) : []),
  ];
  return (
    <Part title="Lineage">
      {data.features_read.length ? null : <Nothing>What the features were built from is not recorded.</Nothing>}
      <Graph edges={edges} label={`What was made of what, of ${data.day}`} nodes={nodes} />
    </Part>
  );
};
