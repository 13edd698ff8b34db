// The state of the connection: a word in the header, and a banner that nobody overlooks.

import { byId, setHidden, setText } from "./elements.js";

const WORDS = { connecting: "connecting", open: "connected", silent: "no answer", lost: "lost" };
const BANNERS = {
  silent: ["The daemon does not answer", "What you see is old. It may be overloaded or stuck."],
  lost: ["The daemon is gone", "What you see is old. Trying to connect again …"],
};

export function writeConnection(state) {
  document.body.dataset.connection = state;
  setText("connection", WORDS[state]);
  const banner = BANNERS[state];
  setHidden("banner", !banner);
  if (banner) {
    setText("banner-title", banner[0]);
    setText("banner-text", banner[1]);
  }
  if (state === "lost") {
    byId("status").dataset.state = "unknown";
    setText("status", "unknown");
  }
}
