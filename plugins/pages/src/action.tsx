// A button that starts a DAG, after a question, for those who may.
import { Button, Code, Dialog, Field, Input, Portal, Stack, Text } from "@chakra-ui/react";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";

import { client, trigger, type UseCaseInfo } from "./client";
import { Failure, To } from "./parts";

type Props = {
  usecase: UseCaseInfo;
  dag: string;
  conf: Record<string, unknown>;
  label: string;
  // What will happen, in a sentence.
  does: string;
  // The parameter in which the DAG wants to be told why, if it does.
  reason?: string;
  onStarted?: () => void;
};

const SHORTEST_REASON = 3;

export const Action = ({ usecase, dag, conf, label, does, reason, onStarted }: Props) => {
  const [open, setOpen] = useState(false);
  const [why, setWhy] = useState("");
  const whole = reason ? { ...conf, [reason]: why } : conf;
  const dagId = `${usecase.name}.${dag}`;
  const may = usecase.may.includes(dag);
  const run = useMutation({
    mutationFn: () => trigger(dagId, whole),
    onSuccess: () => {
      onStarted?.();
      return client.invalidateQueries();
    },
  });
  return (
    <Stack align="start" gap={1}>
      <Button
        disabled={!may}
        onClick={() => {
          run.reset();
          setOpen(true);
        }}
        size="sm"
        title={may ? does : `You may not trigger ${dagId}: ask an administrator for the right to run it.`}
        variant="outline"
      >
        {label}
      </Button>
      {run.data ? (
        <Text fontSize="sm" role="status">
          Started: <To path={`/dags/${dagId}/runs/${run.data.dag_run_id}`}>{dagId}</To>
        </Text>
      ) : null}
      <Dialog.Root onOpenChange={(change: { open: boolean }) => setOpen(change.open)} open={open} role="alertdialog">
        <Portal>
          <Dialog.Backdrop />
          <Dialog.Positioner>
            <Dialog.Content>
              <Dialog.Header>
                <Dialog.Title>{label}?</Dialog.Title>
              </Dialog.Header>
              <Dialog.Body>
                <Stack gap={3}>
                  <Text>{does}</Text>
                  {reason ? (
                    <Field.Root required>
                      <Field.Label>Why</Field.Label>
                      <Input onChange={(event) => setWhy(event.currentTarget.value)} value={why} />
                    </Field.Root>
                  ) : null}
                  <Text color="fg.muted" fontSize="sm">
                    This starts the DAG {dagId} in your name with <Code>{JSON.stringify(whole)}</Code>
                  </Text>
                  {run.error ? <Failure error={run.error} /> : null}
                </Stack>
              </Dialog.Body>
              <Dialog.Footer>
                <Button onClick={() => setOpen(false)} variant="outline">
                  Cancel
                </Button>
                <Button
                  colorPalette="blue"
                  disabled={reason !== undefined && why.trim().length < SHORTEST_REASON}
                  loading={run.isPending}
                  onClick={() => run.mutate(undefined, { onSuccess: () => setOpen(false) })}
                >
                  Start
                </Button>
              </Dialog.Footer>
            </Dialog.Content>
          </Dialog.Positioner>
        </Portal>
      </Dialog.Root>
    </Stack>
  );
};
