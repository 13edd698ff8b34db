// The WebSocket: comes back by itself, and notices when the other side has gone quiet.

const FIRST_RETRY_MS = 250;
const LONGEST_RETRY_MS = 2000;
const OPEN_WITHIN_MS = 5000;
// The status comes every half second; this many missed ones are no accident.
const SILENT_AFTER_MS = 3000;

/**
 * Keep a connection open. `onState` is told "connecting", "open", "silent" or "lost".
 * Returns a function that sends an object, if it can.
 */
export function connect(address, { onText, onBinary, onState }) {
  let socket = null;
  let retryMs = FIRST_RETRY_MS;
  let heardAt = 0;
  let state = "";

  function change(next) {
    if (next === state) return;
    state = next;
    onState(next);
  }

  function open() {
    socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    const opening = setTimeout(() => socket.close(), OPEN_WITHIN_MS);
    socket.onopen = () => clearTimeout(opening);
    socket.onmessage = (event) => {
      heardAt = performance.now();
      retryMs = FIRST_RETRY_MS;
      change("open");
      if (typeof event.data === "string") onText(JSON.parse(event.data));
      else onBinary(event.data);
    };
    socket.onclose = () => {
      clearTimeout(opening);
      change("lost");
      setTimeout(open, retryMs);
      retryMs = Math.min(retryMs * 2, LONGEST_RETRY_MS);
    };
  }

  setInterval(() => {
    if (state === "open" && performance.now() - heardAt > SILENT_AFTER_MS) change("silent");
  }, 500);
  change("connecting");
  open();
  return (message) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  };
}
