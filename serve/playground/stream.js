/** Send a request to the server and read its server-sent events. */

/**
 * POST a body and yield the first choice of each chunk as it arrives.
 *
 * Throws an Error with a message of one sentence: the server's own if it sent one. It also throws after
 * `signal` was aborted, which the caller does not treat as a failure.
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
  if (!response.ok) throw new Error(await errorMessage(response));
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

/** The message of a failed response, or its status if it has no readable message. */
export async function errorMessage(response) {
  try {
    const { error } = await response.json();
    if (error.message) return error.message;
  } catch {
    // Not an error of the server itself, but of a proxy, for example.
  }
  return `The server answered with status ${response.status}${response.statusText ? ` (${response.statusText})` : ""}.`;
}

/** Yield the data of each event. Network chunks may end anywhere, also inside a character or a line. */
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
      for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
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
