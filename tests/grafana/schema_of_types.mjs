// JSON Schemas of the types that one version of @grafana/schema publishes: the dashboard, and each panel's
// options and field options. Called in the folder where it is installed, beside ts-json-schema-generator.
import { readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createGenerator } from "ts-json-schema-generator";

function* typeFiles(folder) {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) {
      if (name !== "cjs") yield* typeFiles(path);
    } else if (/raw\/(dashboard|composable\/[a-z0-9]+\/panelcfg)\/x\/.*types\.gen\.d\.ts$/.test(path)) {
      yield path;
    }
  }
}

for (const path of typeFiles("node_modules/@grafana/schema/dist")) {
  const panel = path.match(/composable\/([a-z0-9]+)\//)?.[1];
  if (panel && !process.argv.includes(panel)) continue;
  for (const type of panel ? ["Options", "FieldConfig"] : ["Dashboard"]) {
    let schema;
    try {
      schema = createGenerator({ path, type, skipTypeCheck: true, additionalProperties: false }).createSchema(type);
    } catch (error) {
      if (/No root type/.test(String(error))) continue; // a panel without field options of its own
      throw error;
    }
    writeFileSync(`${panel ?? "dashboard"}-${type}.json`, JSON.stringify(schema));
  }
}
