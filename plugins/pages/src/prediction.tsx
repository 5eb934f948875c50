// The prediction page: one entity found again, its score, why, what happened, and what it was made from.
import { Badge, Box, Button, Code, HStack, Input, SimpleGrid, Stack, Table, Text } from "@chakra-ui/react";
import { useEffect, useState } from "react";
import { useSearchParams } from "react-router-dom";

import { useEntities, useExplanation, usePrediction, type Explained, type Prediction, type UseCaseInfo } from "./client";
import { isDay } from "./days";
import { Fact, Failure, Loading, Nothing, Panel, Rows, Time, To } from "./parts";

export const PredictionPage = ({ usecase }: { usecase: UseCaseInfo }) => {
  const [wanted, setWanted] = useSearchParams();
  const [text, setText] = useState(wanted.get("entity") ?? "");
  const day = isDay(wanted.get("day"));
  const entity = wanted.get("entity") ?? "";
  const known = useEntities(usecase.name, useSettled(text), day);
  const go = (changes: Record<string, string>) =>
    setWanted((before) => new URLSearchParams({ ...Object.fromEntries(before), ...changes }));
  return (
    <Stack gap={4}>
      <Panel title="Find a prediction">
        <Stack gap={3}>
          <HStack align="end" flexWrap="wrap">
            <Box>
              <label htmlFor="entity">Entity</label>
              <Input
                id="entity"
                onChange={(event) => setText(event.currentTarget.value)}
                onKeyDown={(event) => event.key === "Enter" && go({ entity: text.trim() })}
                placeholder="a part of its name"
                value={text}
              />
            </Box>
            <Box>
              <label htmlFor="day">Day, the newest if empty</label>
              <Input id="day" onChange={(event) => go({ day: event.currentTarget.value })} type="date" value={day} />
            </Box>
            <Button colorPalette="blue" disabled={!text.trim()} onClick={() => go({ entity: text.trim() })}>
              Show
            </Button>
          </HStack>
          {known.error ? <Failure error={known.error} /> : null}
          {known.data && known.data.total ? (
            <Box>
              <Text color="fg.muted" fontSize="sm">
                {known.data.total.toLocaleString()} of {known.data.day} fit{known.data.total > known.data.entities.length ? "; some of them:" : ":"}
              </Text>
              <HStack flexWrap="wrap" gap={2}>
                {known.data.entities.map((name) => (
                  <Button
                    key={name}
                    onClick={() => {
                      setText(name);
                      go({ entity: name });
                    }}
                    size="xs"
                    variant={name === entity ? "solid" : "outline"}
                  >
                    {name}
                  </Button>
                ))}
              </HStack>
            </Box>
          ) : known.data ? (
            <Nothing>
              {known.data.day ? `No entity of ${known.data.day} has that in its name.` : `Nothing is predicted yet: the DAG ${usecase.name}.score does.`}
            </Nothing>
          ) : null}
        </Stack>
      </Panel>
      {entity ? <Found day={day} entity={entity} key={`${entity} ${day}`} usecase={usecase} /> : null}
    </Stack>
  );
};

// What somebody typed, once they pause.
const useSettled = (text: string): string => {
  const [settled, setSettled] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(text), 300);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
};

const Found = ({ usecase, entity, day }: { usecase: UseCaseInfo; entity: string; day: string }) => {
  const [whole, setWhole] = useState(false);
  const { data, error } = usePrediction(usecase.name, entity, day);
  const explained = useExplanation(usecase.name, entity, day, whole);
  if (!data) return error ? <Failure error={error} /> : <Loading what={entity} />;
  return (
    <Panel aside={<Badge colorPalette={data.decision ? "orange" : "gray"}>{data.decision ? "acted on" : "not acted on"}</Badge>} title={data.entity}>
      <Stack gap={6}>
        {error ? <Failure error={error} /> : null}
        <SimpleGrid as="dl" columns={{ base: 2, md: 4 }} gap={4} m={0}>
          <Fact name="Score">{data.score.toFixed(4)}</Fact>
          <Fact name="Day">
            <To path={`/plugin/nightshift/data?usecase=${usecase.name}&day=${data.day}`}>{data.day}</To>
          </Fact>
          <Fact name="Event">{data.event_time ? <Time at={data.event_time} /> : "–"}</Fact>
          <Fact name="What happened" note={data.outcome?.known_since ? `known since ${data.outcome.known_since}` : null}>
            {outcome(data)}
          </Fact>
        </SimpleGrid>
        {explained.data ? <Whole explained={explained.data} /> : <Reasons prediction={data} />}
        {explained.data ? null : (
          <Box>
            <Button disabled={explained.isFetching} loading={explained.isFetching} onClick={() => setWhole(true)} size="sm" variant="outline">
              Explain by every feature
            </Button>
          </Box>
        )}
        {explained.error ? <Failure error={explained.error} /> : null}
        <Lineage data={data} usecase={usecase} />
      </Stack>
    </Panel>
  );
};

const outcome = ({ outcome: known }: Prediction) => {
  if (!known) return "not known yet";
  if (known.value === null) return "there will be no label";
  return known.value ? "yes" : "no";
};

const signed = (value: number) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;

const Reasons = ({ prediction }: { prediction: Prediction }) =>
  prediction.reasons.length ? (
    <Contributions rows={prediction.reasons} title="The strongest reasons, as stored with the prediction" />
  ) : (
    <Nothing>No reasons were stored with this prediction.</Nothing>
  );

const Contributions = ({ title, rows }: { title: string; rows: Prediction["reasons"] }) => {
  const most = Math.max(...rows.map((row) => Math.abs(row.contribution)), Number.EPSILON);
  return (
    <Box>
      <Text as="h3" fontWeight="semibold" mb={2}>
        {title}
      </Text>
      <Rows columns={["Feature", "Value", "Log-odds", ""]}>
        {rows.map((row) => (
          <Table.Row key={row.feature}>
            <Table.Cell>{row.feature}</Table.Cell>
            <Table.Cell>{row.value ?? "missing"}</Table.Cell>
            <Table.Cell>{signed(row.contribution)}</Table.Cell>
            <Table.Cell w="40%">
              <Box aria-hidden bg={row.contribution < 0 ? "blue.solid" : "orange.solid"} borderRadius="xs" h="10px" w={`${(100 * Math.abs(row.contribution)) / most}%`} />
            </Table.Cell>
          </Table.Row>
        ))}
      </Rows>
    </Box>
  );
};

const Whole = ({ explained }: { explained: Explained }) => (
  <Stack gap={3}>
    {explained.notes.map((note) => (
      <Text key={note}>{note}</Text>
    ))}
    <Text>
      It acts from a score of {explained.threshold.toFixed(4)} on. Nothing known, its log-odds are {explained.base.toFixed(3)}; with all features{" "}
      {explained.log_odds.toFixed(3)}, before calibration.
    </Text>
    <SmallestChange explained={explained} />
    <Contributions rows={explained.contributions} title="What each feature adds" />
  </Stack>
);

// Which features would have to say something else for the other decision, of those that the use case allows.
const SmallestChange = ({ explained: { counterfactual: found, allowed } }: { explained: Explained }) => (
  <Box>
    <Text as="h3" fontWeight="semibold" mb={2}>
      What would change the decision
    </Text>
    {found ? (
      <>
        <Text>
          {found.exhaustive ? "The smallest allowed change" : "A small allowed change"}, to a score of {found.score.toFixed(4)}. It is what the model would say, not what would
          happen.
        </Text>
        <Rows columns={["Feature", "Is", "Would be"]}>
          {found.changes.map((change) => (
            <Table.Row key={change.feature}>
              <Table.Cell>
                {change.feature}
                {change.follows ? " (follows)" : ""}
              </Table.Cell>
              <Table.Cell>{change.before ?? "missing"}</Table.Cell>
              <Table.Cell>{change.after}</Table.Cell>
            </Table.Row>
          ))}
        </Rows>
      </>
    ) : (
      <Nothing>
        {allowed.length
          ? `No allowed change of ${allowed.join(" or ")} makes it decide otherwise, of those that were tried: up to three features at once.`
          : "explanation.allowed in usecase.yml names no feature that may be changed."}
      </Nothing>
    )}
  </Box>
);

// Back to the raw objects: what scored, what it read, and what that was built from.
const Lineage = ({ usecase, data }: { usecase: UseCaseInfo; data: Prediction }) => (
  <Box>
    <Text as="h3" fontWeight="semibold" mb={2}>
      Lineage
    </Text>
    <Rows columns={["What", "Which"]}>
      <Table.Row>
        <Table.Cell>Run</Table.Cell>
        <Table.Cell>
          <Code fontSize="xs">{data.run_id}</Code>
        </Table.Cell>
      </Table.Row>
      <Table.Row>
        <Table.Cell>Model</Table.Cell>
        <Table.Cell>
          <To path={`/plugin/nightshift/models?usecase=${usecase.name}&left=${data.model_version}`}>version {data.model_version}</To>{" "}
          <Code fontSize="xs">{data.model_hash.slice(0, 12)}</Code>
        </Table.Cell>
      </Table.Row>
      <Table.Row>
        <Table.Cell>Features of {data.day}</Table.Cell>
        <Table.Cell>
          <Code fontSize="xs">{data.feature_version.slice(0, 12)}</Code>
        </Table.Cell>
      </Table.Row>
      {data.features_read.map((read) => (
        <Table.Row key={read.table}>
          <Table.Cell>{read.table}</Table.Cell>
          <Table.Cell whiteSpace="normal">
            {Object.entries(read.versions).map(([day, version], number) => (
              <span key={day}>
                {number ? ", " : ""}
                <To path={`/plugin/nightshift/data?usecase=${usecase.name}&day=${day}`}>{day}</To> v{version}
              </span>
            ))}
          </Table.Cell>
        </Table.Row>
      ))}
    </Rows>
  </Box>
);
