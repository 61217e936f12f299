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
  addEventListener("beforeprint", () => show(true));
  addEventListener("afterprint", () => show());
}
