// Lines with intervals, drawn by ECharts in the colours of Airflow's theme, and their figures as a table.
import { Box, Table, Text } from "@chakra-ui/react";
import { LineChart } from "echarts/charts";
import { AriaComponent, GridComponent, TooltipComponent } from "echarts/components";
import { init, use } from "echarts/core";
import { SVGRenderer } from "echarts/renderers";
import { useEffect, useRef } from "react";

use([LineChart, GridComponent, TooltipComponent, AriaComponent, SVGRenderer]);

export type Point = { day: string; value: number | null; low: number | null; high: number | null };

const figure = (value: number | null) => (value === null ? "–" : value.toFixed(3));

const colour = (element: Element, token: string) =>
  getComputedStyle(element).getPropertyValue(`--chakra-colors-${token}`).trim() || "gray";

// Another line beside the first, such as what was estimated before.
export type Beside = { name: string; values: (number | null)[] };

type Props = { title: string; points: Point[]; beside?: Beside; height?: number };

export const LineWithInterval = ({ title, points, beside, height = 120 }: Props) => {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    const chart = init(element, undefined, { renderer: "svg" });
    const draw = () => {
      const line = colour(element, "blue-500");
      const soft = colour(element, "fg-muted");
      chart.setOption({
        animation: false,
        aria: { enabled: true, label: { description: `${title}, ${points.length} days` } },
        grid: { left: 44, right: 8, top: 8, bottom: 22 },
        textStyle: { color: soft, fontFamily: "inherit" },
        tooltip: {
          trigger: "axis",
          confine: true,
          formatter: (found: { dataIndex: number }[]) => {
            const place = found[0]?.dataIndex ?? 0;
            const point = points[place];
            const other = beside ? `<br>${beside.name} ${figure(beside.values[place] ?? null)}` : "";
            return point ? `${point.day}<br><b>${figure(point.value)}</b> (${figure(point.low)} to ${figure(point.high)})${other}` : "";
          },
        },
        xAxis: {
          type: "category",
          data: points.map((point) => point.day),
          axisLabel: { color: soft, formatter: (day: string) => day.slice(5), hideOverlap: true },
          axisLine: { lineStyle: { color: soft } },
        },
        yAxis: { type: "value", scale: true, axisLabel: { color: soft }, splitLine: { lineStyle: { opacity: 0.2 } }, splitNumber: 3 },
        series: [
          // The band is a line at its lower end and, stacked on that, its width.
          { type: "line", stack: "band", symbol: "none", silent: true, lineStyle: { opacity: 0 }, data: points.map((p) => p.low) },
          {
            type: "line",
            stack: "band",
            symbol: "none",
            silent: true,
            lineStyle: { opacity: 0 },
            areaStyle: { color: line, opacity: 0.15 },
            data: points.map((p) => (p.low === null || p.high === null ? null : p.high - p.low)),
          },
          { type: "line", symbolSize: 5, color: line, data: points.map((p) => p.value) },
          ...(beside
            ? [{ type: "line" as const, symbol: "none", color: soft, lineStyle: { type: "dashed" as const }, data: beside.values }]
            : []),
        ],
      });
    };
    draw();
    const resized = new ResizeObserver(() => chart.resize());
    resized.observe(element);
    // Airflow's theme is a class of the document.
    const themed = new MutationObserver(draw);
    themed.observe(document.documentElement, { attributeFilter: ["class", "data-theme"] });
    return () => {
      resized.disconnect();
      themed.disconnect();
      chart.dispose();
    };
  }, [title, points, beside]);
  return (
    <Box>
      <Box height={`${height}px`} ref={box} />
      <details>
        <summary>
          <Text as="span" color="fg.muted" fontSize="sm">
            Figures
          </Text>
        </summary>
        <Table.Root size="sm">
          <Table.Header>
            <Table.Row>
              {["Day", title, "From", "To", ...(beside ? [beside.name] : [])].map((name) => (
                <Table.ColumnHeader key={name}>{name}</Table.ColumnHeader>
              ))}
            </Table.Row>
          </Table.Header>
          <Table.Body>
            {points.map((point, place) => (
              <Table.Row key={point.day}>
                <Table.Cell>{point.day}</Table.Cell>
                <Table.Cell>{figure(point.value)}</Table.Cell>
                <Table.Cell>{figure(point.low)}</Table.Cell>
                <Table.Cell>{figure(point.high)}</Table.Cell>
                {beside ? <Table.Cell>{figure(beside.values[place] ?? null)}</Table.Cell> : null}
              </Table.Row>
            ))}
          </Table.Body>
        </Table.Root>
      </details>
    </Box>
  );
};
