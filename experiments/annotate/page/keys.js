// Keys, as people know them from Cutie and napari.

export function listen(actions) {
  window.addEventListener("keydown", (event) => {
    const { target, key, shiftKey } = event;
    if (target.matches("input[type=number], select, summary")) return;
    if (target.matches("input[type=range]") && key.startsWith("Arrow") && target.id !== "scrubber") return;
    const control = event.ctrlKey || event.metaKey;
    const action = control ? actions[`Control+${shiftKey ? "Shift+" : ""}${key.toLowerCase()}`] : plain(actions, event);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function plain(actions, { key, shiftKey }) {
  if (/^[1-9]$/.test(key)) return () => actions.object(Number(key));
  const name = key.length === 1 ? key.toLowerCase() : key;
  return actions[shiftKey && key.length > 1 ? `Shift+${name}` : name];
}
