// What Grafana's own libraries make of a dashboard's links and queries, as functions for a page in a browser.
// Here is only what hands the JSON to them: they join the rows, interpolate, encode, sanitize, and read URLs.
// By `require`, because not every version has all of it as ES modules, and two copies would not know each other.
const data = require("@grafana/data");
const { setPluginImportUtils } = require("@grafana/runtime");
const scenes = require("@grafana/scenes");
const { lastValueFrom } = require("rxjs");

// The server registers every field option and transformation; the libraries alone have none.
const option = (id, process) => ({ id, path: id, name: id, process, shouldApply: () => true });
data.standardFieldConfigEditorRegistry.setInit(() => [
  option("displayName", data.displayNameOverrideProcessor),
  option("links", data.dataLinksOverrideProcessor),
]);
const { mergeTransformer, organizeFieldsTransformer } = data.standardTransformers;
data.standardTransformersRegistry.setInit(() =>
  [mergeTransformer, organizeFieldsTransformer].map((info) => {
    const { id, name, operator, defaultOptions } = info;
    // Grafana 12 looks for the operator here, 13 calls for it.
    return { id, name, transformation: Object.assign(async () => info, { operator, defaultOptions }) };
  }),
);
const plugin = Object.assign(new data.PanelPlugin(() => null).useFieldConfig(), { meta: { id: "table", info: {} } });
setPluginImportUtils({ getPanelPluginFromCache: () => plugin });

const VARIABLES = { custom: scenes.CustomVariable, datasource: scenes.DataSourceVariable, query: scenes.QueryVariable };

/** The dashboard's variables, with values as given, and a time range; panels are in it to be interpolated. */
function scene({ templating, timezone }, values, range, panels = []) {
  const variables = templating.list.map(({ name, type, multi, includeAll, allValue, skipUrlSync }) => {
    const value = multi ? [values[name]].flat() : values[name];
    return new VARIABLES[type]({ name, isMulti: multi, includeAll, allValue, skipUrlSync, value, text: value });
  });
  return new scenes.EmbeddedScene({
    $timeRange: new scenes.SceneTimeRange({ ...range, timeZone: timezone }),
    $variables: new scenes.SceneVariableSet({ variables }),
    body: new scenes.SceneFlexLayout({ children: panels.map((body) => new scenes.SceneFlexItem({ body })) }),
  });
}

/** Every row of a table panel with the URLs of its links, where the queries answered these fields, in order. */
async function rowLinks(dashboard, panel, values, range, answers) {
  const frames = answers.map((fields, n) => data.toDataFrame({ refId: panel.targets[n].refId, fields }));
  const series = await lastValueFrom(data.transformDataFrame(panel.transformations, frames));
  const viz = new scenes.VizPanel({ pluginId: "table", fieldConfig: panel.fieldConfig });
  scene(dashboard, values, range, [viz]);
  viz.activate();
  const [frame] = viz.applyFieldConfig({ series, state: "Done" }).series;
  return Array.from({ length: frame.length }, (_, valueRowIndex) => ({
    row: Object.fromEntries(frame.fields.map(({ name, values }) => [name, values[valueRowIndex]])),
    urls: frame.fields.flatMap((field) => field.getLinks({ valueRowIndex })).map(({ href }) => href),
  }));
}

/** The URLs of the links at the top of a dashboard; `includeVars` and `keepTime` by the macros for them. */
function topLinks(dashboard, values, range) {
  const origin = scene(dashboard, values, range);
  return dashboard.links.map(({ url, keepTime, includeVars }) => {
    if (keepTime) url = data.urlUtil.appendQueryToUrl(url, `\${${data.DataLinkBuiltInVars.keepTime}}`);
    if (includeVars) url = data.urlUtil.appendQueryToUrl(url, `\${${data.DataLinkBuiltInVars.includeVars}}`);
    return data.textUtil.sanitizeUrl(scenes.sceneGraph.interpolate(origin, url));
  });
}

/** The variables and the time range that a dashboard has, once it was opened by a URL with this query. */
function arrive(dashboard, search) {
  const unset = Object.fromEntries(dashboard.templating.list.map(({ name }) => [name, "unset"]));
  const target = scene(dashboard, unset, { from: "now-1m", to: "now" });
  scenes.sceneUtils.syncStateFromSearchParams(target, new URLSearchParams(search));
  const { $variables, $timeRange } = target.state;
  const values = Object.fromEntries($variables.state.variables.map(({ state }) => [state.name, state.value]));
  return { values, range: { from: $timeRange.state.from, to: $timeRange.state.to } };
}

/** Texts of a dashboard with their variables replaced. */
function replaced(dashboard, values, texts) {
  const origin = scene(dashboard, values, { from: "now-1h", to: "now" });
  return texts.map((text) => scenes.sceneGraph.interpolate(origin, text));
}

Object.assign(globalThis, { rowLinks, topLinks, arrive, replaced });
