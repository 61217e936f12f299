// The documentation's colours follow the portal's choice, which assets/theme.js keeps in data-look; paper is light.
{
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = (printing = false) => {
    const look = document.documentElement.dataset.look ?? (dark.matches ? "dark" : "light");
    document.body.dataset.mdColorScheme = look === "dark" && !printing ? "slate" : "default";
  };
  show();
  dark.addEventListener("change", () => show());
  new MutationObserver(() => show()).observe(document.documentElement, { attributeFilter: ["data-look"] });
  // For readers of the screen: the theme's dialog has no name, and several of its navigations have the same or none.
  let named = 0;
  // Tables that are wider than the page scroll, by the keyboard too.
  const widths = new ResizeObserver((changes) => {
    for (const { target } of changes) {
      if (target.scrollWidth > target.clientWidth) for (const [key, value] of Object.entries({ tabindex: "0", role: "group", "aria-label": "Table" })) target.setAttribute(key, value);
      else for (const key of ["tabindex", "role", "aria-label"]) target.removeAttribute(key);
    }
  });
  const mend = () => {
    document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
    for (const nav of document.querySelectorAll("nav.md-nav nav.md-nav[aria-label]:not([data-named]), nav.md-code__nav:not([data-named])")) {
      nav.dataset.named = "";
      nav.setAttribute("aria-label", `${nav.getAttribute("aria-label") ?? "Code"}, ${++named}`);
    }
    for (const table of document.querySelectorAll(".md-typeset__scrollwrap")) widths.observe(table);
  };
  addEventListener("DOMContentLoaded", mend);
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  addEventListener("beforeprint", () => show(true));
  addEventListener("afterprint", () => show());
}
