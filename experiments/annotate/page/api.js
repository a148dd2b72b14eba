// What the page asks of the server. All addresses are relative: the token is in front of them.

let tab = "";

export class ServerError extends Error {}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(`api/${path}`, { ...options, headers: { "x-tab": tab, ...options.headers } });
  } catch {
    throw new ServerError("the program that serves this page does not answer; start it again, nothing on disk is lost");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new ServerError(said.error ?? `the server answers ${answer.status}`);
}

const bytes = async (answer) => new Uint8Array(await answer.arrayBuffer());
const post = (path, content = {}) => ask(path, { method: "POST", body: JSON.stringify(content) });

export async function open() {
  const about = await (await post("open")).json();
  tab = about.tab;
  return about;
}

export const state = async (since) => (await ask(`state?since=${since}`)).json();
export const frame = async (t) => createImageBitmap(await (await ask(`frame/${t}`)).blob());
export const labels = async (t) => bytes(await ask(`labels/${t}`));
export const give = (t, ids) => ask(`given/${t}`, { method: "PUT", body: ids });
export const takeBack = (t) => ask(`given/${t}`, { method: "DELETE" });
export const grow = async (t, what) => bytes(await post(`grow/${t}`, what));
export const propagate = (direction, until) => post("propagate", { direction, until });
export const exportAll = () => post("export");
export const stop = () => post("stop");
