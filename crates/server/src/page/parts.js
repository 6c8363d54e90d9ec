// Answers that come in parts, one in the place of the other: multipart/x-mixed-replace.

/** Whether an answer comes in parts. */
export const isInParts = (answer) => (answer.headers.get("content-type") ?? "").startsWith("multipart/x-mixed-replace");

const END = new TextEncoder().encode("\r\n\r\n");

/** Where `what` is in `bytes`, or -1. */
function indexOf(bytes, what) {
  outer: for (let at = bytes.indexOf(what[0]); at >= 0; at = bytes.indexOf(what[0], at + 1)) {
    for (let index = 1; index < what.length; index += 1) if (bytes[at + index] !== what[index]) continue outer;
    return at;
  }
  return -1;
}

/** The parts of an answer as they come: { headers, blob }. Each says its length. */
export async function* parts(answer) {
  const reader = answer.body.getReader();
  let seen = new Uint8Array();
  const more = async () => {
    const { done, value } = await reader.read();
    if (done) throw new Error("The server's answer was cut off.");
    const all = new Uint8Array(seen.length + value.length);
    all.set(seen);
    all.set(value, seen.length);
    seen = all;
  };
  for (;;) {
    let end = indexOf(seen, END);
    while (end < 0) {
      // The last line has no part behind it.
      if (new TextDecoder().decode(seen.subarray(0, 128)).match(/^--[\w-]+--\r\n$/)) return;
      await more();
      end = indexOf(seen, END);
    }
    const lines = new TextDecoder().decode(seen.subarray(0, end)).split("\r\n").slice(1);
    const headers = new Headers(lines.map((line) => line.split(/:\s*(.*)/).slice(0, 2)));
    const start = end + END.length;
    const length = Number(headers.get("content-length"));
    while (seen.length < start + length + 2) await more();
    yield { headers, blob: new Blob([seen.slice(start, start + length)], { type: headers.get("content-type") }) };
    seen = seen.slice(start + length + 2);
  }
}
