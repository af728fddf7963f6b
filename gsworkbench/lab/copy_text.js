// Text with a button that copies it.
function render({ model, el }) {
  const box = document.createElement("div");
  const button = document.createElement("button");
  const text = document.createElement("pre");
  button.className = "gsw-copy";
  button.textContent = "copy";
  text.className = "gsw-text";
  text.style.cssText = "white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px;margin:2px 0;max-height:16em;overflow:auto";
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(model.get("text")); button.textContent = "copied"; }
    catch { const range = document.createRange(); range.selectNodeContents(text);
            const chosen = getSelection(); chosen.removeAllRanges(); chosen.addRange(range); button.textContent = "selected: press Ctrl+C"; }
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  });
  const draw = () => { text.textContent = model.get("text"); };
  model.on("change:text", draw);
  draw();
  box.append(button, text);
  el.appendChild(box);
}
export default { render };
