// The models page: versions, who was champion when, two of them side by side, and the decisions about them.
import { Badge, Box, Button, Field, HStack, Input, NativeSelect, Stack, Table, Text } from "@chakra-ui/react";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { useSearchParams } from "react-router-dom";

import { Action } from "./action";
import {
  address,
  answer,
  cardOf,
  client,
  useComparison,
  useModels,
  useQuestions,
  type Estimate,
  type Models,
  type Question,
  type InProduction,
  type UseCaseInfo,
  type Version,
} from "./client";
import { Failure, Loading, Nothing, Out, Panel, Rows, Time, To } from "./parts";

const STATES: Record<Version["state"], string> = { champion: "green", challenger: "blue", candidate: "gray", archived: "gray" };

const ACTIONS: Record<string, string> = { promote: "promoted", rollback: "put in force again" };

export const ModelsPage = ({ usecase }: { usecase: UseCaseInfo }) => {
  const { data, error } = useModels(usecase.name);
  const questions = useQuestions(usecase.name).data ?? [];
  if (!data) return error ? <Failure error={error} /> : <Loading what="the models" />;
  if (!data.versions.length) {
    return <Nothing>No version is registered yet: the DAG {usecase.name}.bootstrap trains the first champion.</Nothing>;
  }
  return (
    <Stack gap={4}>
      {error ? <Failure error={error} /> : null}
      {questions.map((question) => (
        <Decision key={question.task_instance.dag_run_id} question={question} usecase={usecase} />
      ))}
      <Panel title="Champions">
        <Timeline champions={data.champions} />
      </Panel>
      <Versions models={data} usecase={usecase} />
      <Versus models={data} usecase={usecase} />
    </Stack>
  );
};

// A task of a training waits for a person: what is asked, and both answers.
const Decision = ({ usecase, question }: { usecase: UseCaseInfo; question: Question }) => {
  const [comment, setComment] = useState("");
  const task = question.task_instance;
  const may = usecase.may_decide;
  const given = useMutation({
    mutationFn: (option: string) => answer(question, option, comment),
    onSuccess: () => client.invalidateQueries(),
  });
  return (
    <Panel
      aside={<To path={`/dags/${task.dag_id}/runs/${task.dag_run_id}/tasks/${task.task_id}/required_actions`}>The evidence, in Airflow</To>}
      title={question.subject}
    >
      <Stack gap={3}>
        {question.assigned_users.length ? <Text>Asked: {question.assigned_users.map((user) => user.name).join(", ")}</Text> : null}
        <Field.Root>
          <Field.Label>Comment, kept in the deployment log</Field.Label>
          <Input onChange={(event) => setComment(event.currentTarget.value)} value={comment} />
        </Field.Root>
        <HStack>
          <Button colorPalette="green" disabled={!may || given.isPending} onClick={() => given.mutate("Approve")} size="sm">
            Approve
          </Button>
          <Button colorPalette="red" disabled={!may || given.isPending} onClick={() => given.mutate("Reject")} size="sm" variant="outline">
            Reject
          </Button>
          {may ? null : <Text fontSize="sm">You may not decide: ask an administrator for the right to answer required actions of {usecase.name}.train.</Text>}
        </HStack>
        {given.error ? <Failure error={given.error} /> : null}
      </Stack>
    </Panel>
  );
};

const Timeline = ({ champions }: { champions: InProduction[] }) =>
  champions.length ? (
    <HStack align="stretch" as="ol" flexWrap="wrap" gap={2} listStyleType="none" m={0} p={0}>
      {champions.map((champion) => (
        <Box
          as="li"
          bg={champion.end ? "bg.muted" : "green.subtle"}
          borderRadius="md"
          color={champion.end ? "fg" : "green.fg"}
          key={`${champion.version} ${champion.start}`}
          p={3}
        >
          <Text fontWeight="semibold">version {champion.version}</Text>
          <Text fontSize="sm">
            {champion.start} {champion.end ? `to ${champion.end}` : "until further notice"}
          </Text>
          <Text fontSize="sm">
            {champion.trainer}, {ACTIONS[champion.action] ?? champion.action} by {champion.by}
          </Text>
        </Box>
      ))}
    </HStack>
  ) : (
    <Nothing>None was promoted yet.</Nothing>
  );

const Versions = ({ usecase, models }: { usecase: UseCaseInfo; models: Models }) => (
  <Panel title="Versions">
    <Rows columns={["Version", "State", "Since", "Trainer", "Trained through", models.primary, "Decided", "Read", "Change"]}>
      {models.versions.map((one) => (
        <Table.Row key={one.version}>
          <Table.Cell>{one.version}</Table.Cell>
          <Table.Cell>
            <Badge colorPalette={STATES[one.state]}>{one.state}</Badge> {one.awaiting ? <Badge colorPalette="orange">waits</Badge> : null}
          </Table.Cell>
          <Table.Cell>
            <Time at={one.since} />
          </Table.Cell>
          <Table.Cell>{one.trainer}</Table.Cell>
          <Table.Cell>{one.trained_through}</Table.Cell>
          <Table.Cell>{one.metrics[models.primary]?.toFixed(4) ?? "–"}</Table.Cell>
          <Table.Cell title={one.reasons.join("\n")}>{one.approval ? `${one.approval.decision} by ${one.approval.by}` : `by ${one.by}`}</Table.Cell>
          <Table.Cell>
            <HStack>
              <Out href={cardOf(usecase.name, one.version)}>card</Out>
              {one.evaluated ? <Out href={address(`nightshift/reports/${usecase.name}/evaluation/${one.trained_night}.html`)}>evaluation</Out> : null}
            </HStack>
          </Table.Cell>
          <Table.Cell>
            {one.was_champion && one.state !== "champion" ? (
              <Action
                conf={{ version: one.version }}
                dag="rollback"
                does={`Puts version ${one.version} in force again, from the first night that is not scored yet on. The deployment log keeps why.`}
                label={`Roll back to ${one.version}`}
                reason="reason"
                usecase={usecase}
              />
            ) : null}
          </Table.Cell>
        </Table.Row>
      ))}
    </Rows>
  </Panel>
);

// Shares and scores have decimals, numbers of rows none.
const isCount = (value: number) => Number.isInteger(value) && Math.abs(value) > 1;
const rounded = (value: number) => (isCount(value) ? value.toLocaleString("en") : value.toFixed(4));

const figure = (one: Estimate | null | undefined) => {
  if (one?.value == null) return "–";
  const said = rounded(one.value);
  return one.low == null || one.high == null ? said : `${said} (${rounded(one.low)} to ${rounded(one.high)})`;
};

const Versus = ({ usecase, models }: { usecase: UseCaseInfo; models: Models }) => {
  const [wanted, setWanted] = useSearchParams();
  const left = wanted.get("left") ?? models.versions[0]?.version ?? "";
  const right = wanted.get("right") ?? models.versions.find(({ version }) => version !== left)?.version ?? left;
  const choose = (side: string, version: string) =>
    setWanted((now) => new URLSearchParams({ ...Object.fromEntries(now), left, right, [side]: version }));
  return (
    <Panel
      aside={
        <HStack>
          {(["left", "right"] as const).map((side) => (
            <NativeSelect.Root key={side} size="sm" width="fit-content">
              <NativeSelect.Field
                aria-label={side === "left" ? "Version" : "Compared with"}
                onChange={(event) => choose(side, event.currentTarget.value)}
                value={side === "left" ? left : right}
              >
                {models.versions.map((one) => (
                  <option key={one.version} value={one.version}>
                    version {one.version}
                  </option>
                ))}
              </NativeSelect.Field>
              <NativeSelect.Indicator />
            </NativeSelect.Root>
          ))}
        </HStack>
      }
      title="Side by side"
    >
      {models.versions.length < 2 ? <Nothing>There is one version: the next training brings another.</Nothing> : <Compared left={left} right={right} usecase={usecase} />}
    </Panel>
  );
};

const Compared = ({ usecase, left, right }: { usecase: UseCaseInfo; left: string; right: string }) => {
  const { data, error } = useComparison(usecase.name, left, right);
  if (!data) return error ? <Failure error={error} /> : <Loading what="the comparison" />;
  const columns = [`Version ${left}`, `Version ${right}`, "Difference, paired"];
  return (
    <Stack gap={4}>
      {error ? <Failure error={error} /> : null}
      <Text>
        {data.same_rows
          ? `Both were judged on the same rows, ${data.rows}.`
          : `They were judged on other rows (${data.rows}), so figures differ for that reason too.`}
      </Text>
      {data.note ? <Nothing>{data.note}</Nothing> : null}
      <Rows columns={["Metric", ...columns]}>
        {data.metrics.map((line) => (
          <Table.Row key={line.name}>
            <Table.Cell>{line.name}</Table.Cell>
            <Table.Cell>{figure(line.left)}</Table.Cell>
            <Table.Cell>{figure(line.right)}</Table.Cell>
            <Table.Cell>{figure(line.difference)}</Table.Cell>
          </Table.Row>
        ))}
      </Rows>
      {data.slices.length ? (
        <Rows columns={["Slice", "Value", "Rows", ...columns]}>
          {data.slices.map((line) => (
            <Table.Row key={`${line.slice} ${line.value}`}>
              <Table.Cell>{line.slice}</Table.Cell>
              <Table.Cell>{line.value}</Table.Cell>
              <Table.Cell>{line.rows.toLocaleString()}</Table.Cell>
              <Table.Cell>{figure(line.left)}</Table.Cell>
              <Table.Cell>{figure(line.right)}</Table.Cell>
              <Table.Cell>{figure(line.difference)}</Table.Cell>
            </Table.Row>
          ))}
        </Rows>
      ) : null}
    </Stack>
  );
};
