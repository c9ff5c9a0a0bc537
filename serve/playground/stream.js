/** Asks the server and reads its server-sent events. */

/**
 * POST a body and yield the first choice of each chunk as it arrives.
 *
 * Throws an Error whose message is one sentence for people: the server's own where it sent one. After
 * `signal` was aborted it throws too; the caller knows then that nothing failed.
 */
export async function* choices(path, body, key, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (!response.ok) throw new Error(await sentence(response));
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    let chunk;
    try {
      chunk = JSON.parse(data);
    } catch {
      throw new Error("The server sent an event that cannot be read.");
    }
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.choices?.length) yield chunk.choices[0];
  }
  throw new Error("The connection ended before the answer was complete.");
}

/** What a failed response says; its status where it says nothing that can be read. */
export async function sentence(response) {
  try {
    const { error } = await response.json();
    if (error.message) return error.message;
  } catch {
    // Not the server's own error: something between it and here answered.
  }
  return `The server answered with status ${response.status}${response.statusText ? ` (${response.statusText})` : ""}.`;
}

/** The data of each event. Parts of the network may end anywhere: inside a character, a line, an event. */
async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines.map((one) => one.replace(/\r$/, ""))) {
        if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        }
      }
    }
  } catch {
    throw new Error("The connection ended before the answer was complete.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
