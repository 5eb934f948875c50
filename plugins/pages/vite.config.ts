import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";

import { defineConfig, type Plugin } from "vite";

// Airflow's page holds these already; a second React on it would not work.
const AIRFLOWS = {
  react: "React",
  "react-dom": "ReactDOM",
  "react/jsx-runtime": "ReactJSXRuntime",
  "react-router-dom": "ReactRouterDOM",
  "@chakra-ui/react": "ChakraUI",
};

// The script names what it was built from, so that a test without Node can tell when it is out of date.
function sources(): string {
  const digest = createHash("sha256");
  const own = readdirSync("src").map((name) => `src/${name}`);
  for (const file of ["package-lock.json", "tsconfig.json", "vite.config.ts", ...own.sort()]) {
    digest.update(`${file}\n`).update(readFileSync(file));
  }
  return digest.digest("hex");
}

// The licences of what is bundled, which have to go wherever the script goes.
const licences = (): Plugin => ({
  name: "licences",
  generateBundle() {
    const inside = [...this.getModuleIds()].map((id) => /^[^\0]*\/node_modules\/(?:@[^/]+\/)?[^/]+/.exec(id)?.[0]);
    const folders = [...new Set(inside.filter((folder) => folder !== undefined))].sort();
    const texts = folders.map((folder) => {
      const { name, version, license } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8")) as Record<string, string>;
      const files = readdirSync(folder, { withFileTypes: true })
        .filter(({ name: file }) => /^(licen[cs]e|notice)/i.test(file))
        .flatMap((one) => (one.isDirectory() ? readdirSync(`${folder}/${one.name}`).map((file) => `${one.name}/${file}`) : [one.name]));
      if (!files.length) throw new Error(`${name} comes without its licence`);
      return `${name} ${version}, ${license}\n\n${files.map((file) => readFileSync(`${folder}/${file}`, "utf8")).join("\n")}`;
    });
    this.emitFile({ type: "asset", fileName: "LICENSES.txt", source: texts.join(`\n${"-".repeat(78)}\n\n`) });
  },
});

export default defineConfig({
  plugins: [licences()],
  define: { "process.env.NODE_ENV": '"production"' },
  build: {
    lib: { entry: "src/main.tsx", formats: ["iife"], name: "Nightshift", fileName: () => "nightshift.js" },
    rollupOptions: {
      external: Object.keys(AIRFLOWS),
      output: { globals: AIRFLOWS, postBanner: `/* built by \`make pages\` from sources ${sources()} */` },
      // "use client" says nothing here: there is no server that draws.
      onwarn: (warning, warn) => warning.code === "MODULE_LEVEL_DIRECTIVE" || warn(warning),
    },
  },
});
