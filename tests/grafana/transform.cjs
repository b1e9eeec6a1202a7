// Runs a panel's transformations as the installed version of @grafana/data does. Standard input: a list of
// {frames, transformations}; standard output: the resulting frames of each. Called in the folder where it is
// installed, beside jsdom, as some versions ask for a browser's globals while they load.
const { readFileSync } = require("node:fs");
const { JSDOM } = require("jsdom");

const { window } = new JSDOM("");
Object.assign(globalThis, { window, document: window.document });

const { standardTransformers, standardTransformersRegistry, toDataFrame, transformDataFrame } = require("@grafana/data");
const { firstValueFrom } = require("rxjs");

standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer].map((transformer) => ({
    id: transformer.id,
    name: transformer.name,
    // A transformer up to version 12, from 13 on a function that gives it: this is both.
    transformation: Object.assign(() => transformer, {
      defaultOptions: transformer.defaultOptions,
      operator: transformer.operator,
    }),
  })),
);

async function transformed({ frames, transformations }) {
  const results = await firstValueFrom(transformDataFrame(transformations, frames.map(toDataFrame)));
  return results.map((frame) => frame.fields.map(({ name, values }) => ({ name, values: Array.from(values) })));
}

(async () => {
  const cases = JSON.parse(readFileSync(0, "utf8"));
  process.stdout.write(JSON.stringify(await Promise.all(cases.map(transformed))));
})();
