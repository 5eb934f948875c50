// What pages ask for: answers of Nightshift's own API and of Airflow's, as the user who is logged in.
import { keepPreviousData, QueryClient, useQuery } from "@tanstack/react-query";

import type { components } from "./schema";

type Schemas = components["schemas"];
export type Tonight = Schemas["Tonight"];
export type UseCaseInfo = Schemas["UseCaseInfo"];
export type Level = Tonight["level"];
type Problem = Schemas["Problem"];

export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly problem: Problem,
  ) {
    super(problem.message);
  }
}

const mayPass = (error: Error) => !(error instanceof Refused) || error.status >= 500;

export const client = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 15_000,
      // What is refused stays refused until somebody asks for something else; what is away may be back.
      refetchInterval: ({ state }) => (state.error && !mayPass(state.error) ? false : 60_000),
      retry: (times, error) => times < 2 && mayPass(error),
    },
  },
});

// Airflow may live below a path of its host; its page says where.
export const address = (path: string): string => new URL(path, document.baseURI).href;

async function ask<T>(path: string, init?: RequestInit): Promise<T> {
  const response = await fetch(address(path), { credentials: "same-origin", ...init });
  if (response.ok) return (await response.json()) as T;
  throw new Refused(response.status, await told(response));
}

async function told(response: Response): Promise<Problem> {
  const nothing = { rule: "", where: "", cure: "" };
  if (response.status === 401) {
    return { ...nothing, message: "Your login has ended.", cure: "Reload the page to log in again." };
  }
  const said: unknown = await response.json().catch(() => null);
  if (said !== null && typeof said === "object") {
    if ("message" in said) return { ...nothing, ...(said as Partial<Problem>) } as Problem;
    if ("detail" in said) return { ...nothing, message: words(said.detail) };
  }
  return { ...nothing, message: `${response.status} ${response.statusText}`, cure: "Look at the API server's log." };
}

const words = (detail: unknown): string => (typeof detail === "string" ? detail : JSON.stringify(detail));

export const useNights = () =>
  useQuery({ queryKey: ["tonight"], queryFn: ({ signal }) => ask<Tonight[]>("nightshift/api/tonight", { signal }) });

export const useUseCases = () =>
  useQuery({ queryKey: ["usecases"], queryFn: ({ signal }) => ask<UseCaseInfo[]>("nightshift/api/usecases", { signal }) });

// Airflow's own API ------------------------------------------------------------------------------------

export type Run = {
  dag_id: string;
  dag_run_id: string;
  partition_key: string | null;
  state: string;
  start_date: string | null;
  end_date: string | null;
};
type Dag = { dag_id: string; next_dagrun_run_after: string | null; is_paused: boolean };
export type Question = {
  task_instance: { dag_id: string; dag_run_id: string; task_id: string; map_index: number };
  subject: string;
  assigned_users: { id: string; name: string }[];
};

export const useDag = (dagId: string) =>
  useQuery({ queryKey: ["dag", dagId], queryFn: ({ signal }) => ask<Dag>(`api/v2/dags/${dagId}`, { signal }) });

// The newest runs of a use case in some states; `since`: that began after a moment.
export const useRuns = (usecase: string, states: string[], limit: number, since?: string) =>
  useQuery({
    queryKey: ["runs", usecase, states, limit, since],
    queryFn: async ({ signal }) => {
      const wanted = new URLSearchParams({ dag_id_prefix_pattern: `${usecase}.`, order_by: "-run_after", limit: `${limit}` });
      for (const state of states) wanted.append("state", state);
      if (since) wanted.append("start_date_gte", since);
      return (await ask<{ dag_runs: Run[] }>(`api/v2/dags/~/dagRuns?${wanted}`, { signal })).dag_runs;
    },
  });

export const useQuestions = (usecase: string) =>
  useQuery({
    queryKey: ["questions", usecase],
    queryFn: async ({ signal }) => {
      // Of a run that a person marked failed, the question stays open, and no answer does anything.
      const waiting = "response_received=false&state=deferred&state=awaiting_input";
      const path = `api/v2/dags/${usecase}.train/dagRuns/~/hitlDetails?${waiting}`;
      return (await ask<{ hitl_details: Question[] }>(path, { signal })).hitl_details;
    },
  });

// The data page ----------------------------------------------------------------------------------------

export type Calendar = Schemas["Calendar"];
export type Day = Schemas["Day"];
export type StaleDay = Schemas["StaleDay"];
export type DayDetail = Schemas["DayDetail"];
export type Quarantined = Schemas["Quarantined"];

const of = (usecase: string) => `nightshift/api/usecases/${encodeURIComponent(usecase)}`;

export const useCalendar = (usecase: string, start: string, end: string, enabled: boolean) =>
  useQuery({
    enabled,
    queryKey: ["calendar", usecase, start, end],
    queryFn: ({ signal }) => ask<Calendar>(`${of(usecase)}/partitions?start=${start}&end=${end}`, { signal }),
  });

// Slower than the rest, so asked for beside it, and not every minute.
export const useStale = (usecase: string, start: string, end: string, enabled: boolean) =>
  useQuery({
    enabled,
    refetchInterval: 600_000,
    refetchOnWindowFocus: false,
    queryKey: ["stale", usecase, start, end],
    queryFn: ({ signal }) => ask<StaleDay[]>(`${of(usecase)}/stale?start=${start}&end=${end}`, { signal }),
  });

export const useDay = (usecase: string, day: string) =>
  useQuery({ queryKey: ["day", usecase, day], queryFn: ({ signal }) => ask<DayDetail>(`${of(usecase)}/partitions/${day}`, { signal }) });

export const useQuarantined = (usecase: string, day: string, suite: string, offset: number) =>
  useQuery({
    queryKey: ["quarantine", usecase, day, suite, offset],
    queryFn: ({ signal }) => ask<Quarantined>(`${of(usecase)}/partitions/${day}/quarantine/${suite}?limit=20&offset=${offset}`, { signal }),
  });

// Doing something is a run of a DAG: Airflow asks for the right to it, and keeps who did it.
export const trigger = (dagId: string, conf: Record<string, unknown>) =>
  ask<Run>(`api/v2/dags/${dagId}/dagRuns`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ logical_date: null, conf }),
  });

// The models page --------------------------------------------------------------------------------------

export type Models = Schemas["Models"];
export type Version = Schemas["Version"];
export type InProduction = Schemas["InProduction"];
export type Estimate = Schemas["Estimate"];

export const useModels = (usecase: string) =>
  useQuery({ queryKey: ["models", usecase], queryFn: ({ signal }) => ask<Models>(`${of(usecase)}/models`, { signal }) });

export const useComparison = (usecase: string, left: string, right: string) =>
  useQuery({
    queryKey: ["versus", usecase, left, right],
    queryFn: ({ signal }) => ask<Schemas["SideBySide"]>(`${of(usecase)}/models/${encodeURIComponent(left)}/versus/${encodeURIComponent(right)}`, { signal }),
  });

export const cardOf = (usecase: string, version: string) => address(`${of(usecase)}/models/${version}/card`);

// A person's answer to a task that waits for one.
export const answer = ({ task_instance: task }: Question, option: string, comment: string) =>
  ask<unknown>(
    `api/v2/dags/${task.dag_id}/dagRuns/${encodeURIComponent(task.dag_run_id)}/taskInstances/${task.task_id}/${task.map_index}/hitlDetails`,
    {
      method: "PATCH",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ chosen_options: [option], params_input: { comment } }),
    },
  );

// The prediction page ----------------------------------------------------------------------------------

export type Prediction = Schemas["Prediction"];
export type Explained = Schemas["Explained"];

const about = (entity: string, day: string) => new URLSearchParams({ entity, ...(day ? { day } : {}) });

export const useEntities = (usecase: string, text: string, day: string) =>
  useQuery({
    queryKey: ["entities", usecase, text, day],
    queryFn: ({ signal }) =>
      ask<Schemas["Entities"]>(`${of(usecase)}/predictions?${new URLSearchParams({ text, ...(day ? { day } : {}) })}`, { signal }),
    placeholderData: keepPreviousData,
  });

export const usePrediction = (usecase: string, entity: string, day: string) =>
  useQuery({
    queryKey: ["prediction", usecase, entity, day],
    queryFn: ({ signal }) => ask<Prediction>(`${of(usecase)}/prediction?${about(entity, day)}`, { signal }),
  });

// What a model has to be loaded for is asked for once, and does not change.
const ONCE = { refetchInterval: false, refetchOnWindowFocus: false, staleTime: Infinity } as const;

export const useExplanation = (usecase: string, entity: string, day: string, wanted: boolean) =>
  useQuery({
    queryKey: ["explanation", usecase, entity, day],
    queryFn: ({ signal }) => ask<Explained>(`${of(usecase)}/explanation?${about(entity, day)}`, { signal }),
    enabled: wanted,
    ...ONCE,
  });

// The monitoring page ----------------------------------------------------------------------------------

export type Monitoring = Schemas["Monitoring"];

export const useMonitoring = (usecase: string, start: string, end: string, enabled: boolean) =>
  useQuery({
    queryKey: ["monitoring", usecase, start, end],
    queryFn: ({ signal }) => ask<Monitoring>(`${of(usecase)}/monitoring?start=${start}&end=${end}`, { signal }),
    enabled,
  });

// A model is loaded for it: its reference sample is what the day is compared with.
export const useDistribution = (usecase: string, column: string, day: string) =>
  useQuery({
    queryKey: ["distribution", usecase, column, day],
    queryFn: ({ signal }) => ask<Schemas["Distribution"]>(`${of(usecase)}/monitoring/${encodeURIComponent(column)}?day=${day}`, { signal }),
    ...ONCE,
  });
