// The first page: how the last night of each use case went, and what asks for somebody.
import { Box, HStack, List, SimpleGrid, Stack, Text } from "@chakra-ui/react";

import { LineWithInterval } from "./chart";
import { address, useDag, useNights, useQuestions, useRuns, type Tonight } from "./client";
import { Fact, Failure, LevelMark, Loading, METRICS, Nothing, Out, Panel, Time, To } from "./parts";

export const TonightPage = () => {
  const { data, error } = useNights();
  if (!data) return error ? <Failure error={error} /> : <Loading what="the last nights" />;
  if (!data.length) {
    return <Nothing>There is no use case whose DAG monitor you may read. Ask an administrator for the right to read it.</Nothing>;
  }
  return (
    <Stack gap={4}>
      {error ? <Failure error={error} /> : null}
      {data.map((night) => (
        <Night key={night.name} night={night} />
      ))}
    </Stack>
  );
};

const Night = ({ night }: { night: Tonight }) => (
  <Panel aside={<LevelMark level={night.level} />} title={night.title}>
    {night.error ? (
      <Box as="pre" fontSize="sm" overflowX="auto" whiteSpace="pre-wrap">
        {night.error}
      </Box>
    ) : (
      <Stack gap={4}>
        <Text fontSize="lg">
          {night.night ? <>Night of {night.night}: </> : null}
          {night.sentence}
        </Text>
        {night.on_its_way ? <Text color="fg.muted">The night of {night.on_its_way} has landed and is on its way.</Text> : null}
        <Facts night={night} />
        <Asks night={night} />
        {night.quality && night.quality.trend.length > 1 ? (
          <Box>
            <Text color="fg.muted" fontSize="sm">
              {METRICS[night.quality.metric] ?? night.quality.metric} as observed, with its interval
            </Text>
            <LineWithInterval points={night.quality.trend} title={METRICS[night.quality.metric] ?? night.quality.metric} />
          </Box>
        ) : null}
      </Stack>
    )}
  </Panel>
);

const Facts = ({ night }: { night: Tonight }) => {
  const newest = night.quality?.trend.at(-1);
  return (
    <SimpleGrid as="dl" columns={{ base: 2, md: 3, xl: 4 }} gap={4} m={0}>
      <Fact name="Predictions">{night.predictions.toLocaleString()}</Fact>
      <Fact name="Rows of sources" note={<Accepted night={night} />}>
        {night.rows?.rows_in.toLocaleString() ?? "–"}
      </Fact>
      <Fact name="Freshness" note={<Freshness night={night} />}>
        {night.freshness?.newest ?? "no predictions"}
      </Fact>
      <Fact name="Model" note={night.champion ? `${night.champion.trainer}, in force from ${night.champion.effective_from} on` : null}>
        {night.champion ? `version ${night.champion.version}` : "none in production"}
      </Fact>
      <Fact name="Observed quality" note={newest ? `${METRICS[night.quality?.metric ?? ""] ?? night.quality?.metric} of ${newest.day}` : "no truth yet"}>
        {newest?.value?.toFixed(3) ?? "–"}
      </Fact>
      <Fact name="Drift" note={night.drift?.note || night.drift?.columns.slice(0, 3).join(", ")}>
        {night.drift?.verdict ?? "not checked"}
      </Fact>
      <Questions night={night} />
      <NextRun night={night} />
    </SimpleGrid>
  );
};

const Accepted = ({ night }: { night: Tonight }) => {
  if (!night.rows) return null;
  const { accepted, quarantined, aside } = night.rows;
  return (
    <>
      {accepted.toLocaleString()} accepted, {quarantined.toLocaleString()} quarantined
      {aside.map((day) => (
        <span key={day}>
          {", "}
          <To path={`/plugin/nightshift/data?usecase=${night.name}&day=${day}`}>of {day}</To>
        </span>
      ))}
    </>
  );
};

const Freshness = ({ night }: { night: Tonight }) => {
  const fresh = night.freshness;
  if (!fresh?.live || !fresh.due_at) return <>not live: nights run by hand</>;
  return (
    <>
      {fresh.expected} {fresh.late ? "was due" : "is due"} <Time at={fresh.due_at} />
    </>
  );
};

const Questions = ({ night }: { night: Tonight }) => {
  const { data, isError } = useQuestions(night.name);
  const [first] = data ?? [];
  return (
    <Fact name="Approvals" note={night.awaiting.length ? `version ${night.awaiting.join(", ")} waits` : null}>
      {first ? (
        <To path={`/dags/${first.task_instance.dag_id}/runs/${first.task_instance.dag_run_id}/tasks/${first.task_instance.task_id}/required_actions`}>
          {data?.length} to decide
        </To>
      ) : isError ? (
        "not known: you may not read required actions, or Airflow does not answer"
      ) : data ? (
        "none pending"
      ) : (
        "…"
      )}
    </Fact>
  );
};

// A schedule that is not live begins in another millennium.
const YEAR = 366 * 86_400_000;
const soon = (at: string | null | undefined) => (at && Date.parse(at) < Date.now() + YEAR ? at : null);

const NextRun = ({ night }: { night: Tonight }) => {
  const { data, isError } = useDag(`${night.name}.ingest`);
  const running = useRuns(night.name, ["running", "queued"], 20).data ?? [];
  // A training may wait for a person for days.
  const now = running.find((run) => run.dag_id !== `${night.name}.train`);
  const next = soon(data?.next_dagrun_run_after);
  return (
    <Fact name="Next run" note={data?.is_paused ? "the DAG ingest is paused" : null}>
      {now ? (
        <To path={`/dags/${now.dag_id}/runs/${now.dag_run_id}`}>{now.dag_id} runs now</To>
      ) : next ? (
        <Time at={next} />
      ) : isError ? (
        "not known: Airflow does not tell"
      ) : data ? (
        "not scheduled"
      ) : (
        "…"
      )}
    </Fact>
  );
};

// What failed longer ago was seen to, or nobody will; to the hour, so that it is asked for once.
const HOUR = 3_600_000;
const recently = () => new Date(Math.floor(Date.now() / HOUR - 72) * HOUR).toISOString();

// Everything that is not well, each with where to look.
const Asks = ({ night }: { night: Tonight }) => {
  const failed = useRuns(night.name, ["failed"], 5, recently()).data ?? [];
  const urgent = night.signals.filter((signal) => signal.level !== "quiet");
  const report = `nightshift/reports/${night.name}/nightly/${night.night}.html`;
  if (!failed.length && !urgent.length && !night.alerts.length) {
    return night.report ? <Out href={address(report)}>Report of the night</Out> : null;
  }
  return (
    <Stack gap={2}>
      <List.Root gap={1} ps={4}>
        {urgent.map((signal) => (
          <List.Item key={signal.text}>
            {signal.text}
            {signal.about === "models" ? (
              <>
                {" "}
                (<To path={`/plugin/nightshift/models?usecase=${night.name}`}>decide</To>)
              </>
            ) : night.report && signal.about !== "freshness" ? (
              <>
                {" "}
                (<Out href={address(`${report}#${signal.about}`)}>report</Out>)
              </>
            ) : null}
          </List.Item>
        ))}
        {night.alerts.map((alert) => (
          <List.Item key={`${alert.kind} ${alert.subject}`}>
            <b>{alert.severity}</b>: {alert.message}
            {alert.count > 1 ? `, ${alert.count} times` : ""}
            {alert.silenced ? ", silenced" : ""} (<Time at={alert.at} />
            {alert.link.startsWith("http") ? (
              <>
                , <Out href={alert.link}>the run</Out>
              </>
            ) : null}
            , <Out href={address(`nightshift/docs/runbooks/${alert.kind}.md`)}>runbook</Out>)
            {alert.cure ? (
              <Text color="fg.muted" fontSize="sm">
                {alert.cure}
              </Text>
            ) : null}
          </List.Item>
        ))}
        {failed.map((run) => (
          <List.Item key={run.dag_run_id + run.dag_id}>
            <To path={`/dags/${run.dag_id}/runs/${run.dag_run_id}`}>
              {run.dag_id} {run.partition_key ?? run.dag_run_id}
            </To>{" "}
            failed (<Out href={address("nightshift/docs/runbooks/run_failed.md")}>runbook</Out>)
          </List.Item>
        ))}
      </List.Root>
      <HStack>{night.report ? <Out href={address(report)}>Report of the night</Out> : null}</HStack>
    </Stack>
  );
};
