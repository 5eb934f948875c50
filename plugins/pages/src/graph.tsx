// What was made of what: boxes in columns, the earlier to the left, and an arrow for each "was made of".
import { Box } from "@chakra-ui/react";
import { useId } from "react";

// `more` is shown when the pointer rests on the box.
export type Node = { id: string; column: number; title: string; text: string; more: string };
export type Edge = [from: string, to: string];

const WIDTH = 220;
const HEIGHT = 48;
const ACROSS = 72;
const DOWN = 14;

export const Graph = ({ nodes, edges, label }: { nodes: Node[]; edges: Edge[]; label: string }) => {
  const arrow = useId();
  const columns = Math.max(...nodes.map((node) => node.column)) + 1;
  const rows = Math.max(...Array.from({ length: columns }, (_, column) => nodes.filter((node) => node.column === column).length));
  const height = rows * (HEIGHT + DOWN) - DOWN;
  const places = new Map(
    nodes.map((node) => {
      const beside = nodes.filter((other) => other.column === node.column);
      const own = beside.length * (HEIGHT + DOWN) - DOWN;
      const y = (height - own) / 2 + beside.indexOf(node) * (HEIGHT + DOWN);
      return [node.id, { x: node.column * (WIDTH + ACROSS), y }];
    }),
  );
  const told = edges.map(([from, to]) => `${title(nodes, to)} from ${title(nodes, from)}`).join("; ");
  return (
    // Wider than a phone: it scrolls, also by keyboard. Sizes are styles: Airflow has rules for all elements.
    <Box overflowX="auto" role="group" aria-label={label} tabIndex={0}>
      <svg aria-label={told || label} height={height + 2} role="img" width={columns * (WIDTH + ACROSS) - ACROSS + 2}>
        <defs>
          <marker id={arrow} markerHeight="7" markerWidth="7" orient="auto" refX="7" refY="3.5">
            <path d="M0,0 L7,3.5 L0,7 z" fill="var(--chakra-colors-fg-muted)" />
          </marker>
        </defs>
        {edges.map(([from, to]) => {
          const start = places.get(from);
          const end = places.get(to);
          if (!start || !end) return null;
          const [x1, y1, x2, y2] = [start.x + WIDTH, start.y + HEIGHT / 2, end.x - 2, end.y + HEIGHT / 2];
          const middle = (x1 + x2) / 2;
          return (
            <path
              d={`M${x1},${y1} C${middle},${y1} ${middle},${y2} ${x2},${y2}`}
              fill="none"
              key={`${from} ${to}`}
              markerEnd={`url(#${arrow})`}
              stroke="var(--chakra-colors-fg-muted)"
            />
          );
        })}
        {nodes.map((node) => {
          const { x, y } = places.get(node.id) ?? { x: 0, y: 0 };
          return (
            <g key={node.id} transform={`translate(${x + 1},${y + 1})`}>
              <title>{node.more}</title>
              <rect fill="var(--chakra-colors-bg-subtle)" height={HEIGHT} rx="6" stroke="var(--chakra-colors-border)" width={WIDTH} />
              <text fill="var(--chakra-colors-fg)" style={{ fontSize: "13px", fontWeight: 600 }} x="12" y="20">
                {node.title}
              </text>
              <text fill="var(--chakra-colors-fg-muted)" style={{ fontSize: "12px" }} x="12" y="37">
                {node.text}
              </text>
            </g>
          );
        })}
      </svg>
    </Box>
  );
};

const title = (nodes: Node[], id: string) => nodes.find((node) => node.id === id)?.title ?? id;
