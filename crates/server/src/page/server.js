// Calls of the server. Its address is where the page came from; nothing else is ever asked.

/** Where the server is, without a slash at the end. */
export const BASE = new URL(".", document.baseURI).href.replace(/\/$/, "");

const STORE = "remote-vae-key";

/** What the server said when it refused. */
export class ServerError extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** The API key, kept until the tab is closed. */
export const key = {
  get: () => sessionStorage.getItem(STORE) ?? "",
  set: (value) => (value ? sessionStorage.setItem(STORE, value) : sessionStorage.removeItem(STORE)),
};

// A key in the address of the page is taken in, and out of the address that others may see.
const address = new URL(location.href);
if (address.searchParams.has("api_key")) {
  key.set(address.searchParams.get("api_key"));
  address.searchParams.delete("api_key");
  history.replaceState(null, "", address);
}

/** What answers without a reason come from: no server of ours gives these, but a proxy before it. */
const PROXY = {
  413: "The latents are larger than a proxy before the server lets through (413): its limit for the size of requests must be raised.",
  502: "A proxy before the server answered that it cannot reach it (502): the server may have been stopped.",
  504: "A proxy before the server has waited too long for its answer (504): its time limit must be raised.",
};

/** Asks the server and gives its answer, or throws what it says. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    // Without credentials of the browser's own, a refusal reaches this page and not a dialogue of the browser.
    answer = await fetch(BASE + path, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server cannot be reached: it may have been stopped, or the network is down. At the top of this page it says when the server is back; then press the button again. Your file is still here.");
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let sentence;
  try {
    sentence = JSON.parse(text).error;
  } catch {
    // A proxy may have answered.
  }
  throw new ServerError(answer.status, sentence ?? PROXY[answer.status] ?? `The server answered with ${answer.status} and gave no reason.`);
}

/** The steps of a `server-timing` header, in milliseconds. */
export function timing(answer) {
  const steps = {};
  for (const part of (answer.headers.get("server-timing") ?? "").split(",")) {
    const found = part.match(/^\s*([\w-]+);dur=([\d.]+)/);
    if (found) steps[found[1]] = Number(found[2]);
  }
  return steps;
}
