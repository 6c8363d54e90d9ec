// The request as code: in which language, and into the clipboard.

import { find } from "./dom.js";
import * as snippets from "./snippets.js";
import { changed, item, request } from "./state.js";

const tabs = [...document.querySelectorAll('[role="tab"]')];
const language = () => find('[role="tab"][aria-selected="true"]').id.slice("tab-".length);

/** Shows the code for the item that is shown or chosen. */
export function show() {
  find("#code-text").textContent = snippets[language()](request(item()));
}

function choose(tab) {
  for (const one of tabs) {
    one.setAttribute("aria-selected", String(one === tab));
    one.tabIndex = one === tab ? 0 : -1;
  }
  find("#code").setAttribute("aria-labelledby", tab.id);
  changed();
}
for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", ({ key: pressed }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[pressed];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    choose(next);
    next.focus();
  });
}
find("#copy").addEventListener("click", async () => {
  const text = find("#code-text").textContent;
  try {
    await navigator.clipboard.writeText(text);
    find("#copy").textContent = "Copied";
  } catch {
    // Browsers give the clipboard to pages over https or of this machine only.
    getSelection().selectAllChildren(find("#code-text"));
    find("#copy").textContent = "Selected";
  }
  setTimeout(() => {
    find("#copy").textContent = "Copy";
  }, 2000);
});
