// What Airflow's UI draws at /plugin/nightshift: the pages, and the way between them.
import { Box, Heading, HStack, Link, NativeSelect } from "@chakra-ui/react";
import { QueryClientProvider } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { NavLink, Route, Routes, useLocation, useSearchParams } from "react-router-dom";

import { address, client, useUseCases, type UseCaseInfo } from "./client";
import { DataPage } from "./data";
import { ModelsPage } from "./models";
import { MonitoringPage } from "./monitoring";
import { PredictionPage } from "./prediction";
import { Failure, Loading, Nothing, Out } from "./parts";
import { TonightPage } from "./tonight";

const HOME = "/plugin/nightshift";
const NAMES = { "": "Tonight", data: "Data", models: "Models", monitoring: "Monitoring", prediction: "Prediction" };

const Nightshift = () => (
  <QueryClientProvider client={client}>
    <Box as="main" height="100%" overflowY="auto" p={{ base: 3, md: 6 }}>
      <Header />
      <Routes>
        <Route element={<TonightPage />} index />
        <Route element={<OfUseCase>{(usecase) => <DataPage usecase={usecase} />}</OfUseCase>} path="data" />
        <Route element={<OfUseCase>{(usecase) => <ModelsPage usecase={usecase} />}</OfUseCase>} path="models" />
        <Route element={<OfUseCase>{(usecase) => <MonitoringPage usecase={usecase} />}</OfUseCase>} path="monitoring" />
        <Route element={<OfUseCase>{(usecase) => <PredictionPage usecase={usecase} />}</OfUseCase>} path="prediction" />
      </Routes>
    </Box>
  </QueryClientProvider>
);

const Header = () => {
  const [wanted] = useSearchParams();
  const usecase = wanted.get("usecase");
  return (
    <HStack as="header" flexWrap="wrap" gap={6} mb={4}>
      <Heading as="h1" size="xl">
        Nightshift
      </Heading>
      <HStack aria-label="Nightshift" as="nav" columnGap={4} flexWrap="wrap" rowGap={1}>
        {Object.entries(NAMES).map(([path, name]) => (
          <Link asChild key={name} _currentPage={{ fontWeight: "bold", textDecoration: "underline" }}>
            <NavLink end to={`${HOME}${path && `/${path}`}${usecase ? `?usecase=${usecase}` : ""}`}>
              {name}
            </NavLink>
          </Link>
        ))}
      </HStack>
      <Out href={address("nightshift/docs/index.md")}>Docs</Out>
    </HStack>
  );
};

// A page about one use case, the first unless the address names another.
const OfUseCase = ({ children }: { children: (usecase: UseCaseInfo) => ReactNode }) => {
  const [wanted, setWanted] = useSearchParams();
  const { pathname } = useLocation();
  const { data, error } = useUseCases();
  if (!data) return error ? <Failure error={error} /> : <Loading what="the use cases" />;
  const named = wanted.get("usecase");
  const chosen = named === null ? data[0] : data.find((one) => one.name === named);
  if (!data.length) return <Nothing>There is no use case whose DAG monitor you may read.</Nothing>;
  return (
    <Box key={pathname}>
      {data.length > 1 || !chosen ? (
        <NativeSelect.Root mb={4} size="sm" width="fit-content">
          <NativeSelect.Field
            aria-label="Use case"
            onChange={(event) => setWanted({ usecase: event.currentTarget.value })}
            value={chosen?.name ?? ""}
          >
            {chosen ? null : <option value="">choose one</option>}
            {data.map((one) => (
              <option key={one.name} value={one.name}>
                {one.title}
              </option>
            ))}
          </NativeSelect.Field>
          <NativeSelect.Indicator />
        </NativeSelect.Root>
      ) : null}
      {chosen ? null : <Nothing>There is no use case {named} whose DAG monitor you may read.</Nothing>}
      {chosen?.error ? <Box as="pre">{chosen.error}</Box> : chosen ? children(chosen) : null}
    </Box>
  );
};

// Airflow's UI imports this script and looks here for what to draw.
Object.assign(globalThis, { AirflowPlugin: Nightshift });
