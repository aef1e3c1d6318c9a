/* Browser side of the dashboard: state to URL, clicks to links, colour scheme, table theme. Nothing here leaves the page. */
(function () {
  "use strict";
  const noUpdate = () => window.dash_clientside.no_update;
  const encode = (text) => encodeURIComponent(text).replace(/%2C/g, ",");

  function paramsOf(inputs) {
    const parts = [];
    for (const input of inputs) {
      const name = input.id.control || input.id.switch;
      const value = input.value;
      if (input.id.switch) {
        if (value) parts.push(name + "=1");
      } else if (Array.isArray(value)) {
        parts.push(name + "=" + value.map(encode).join(","));
      } else if (value !== null && value !== undefined && value !== "") {
        parts.push(name + "=" + encode(String(value)));
      }
    }
    return parts;
  }

  window.rooflakeNumber = function (value, factor) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const shown = value * (factor === undefined ? 1 : factor);
    const size = Math.abs(shown);
    if (size === 0) return "0";
    if (size >= 1e7 || size < 1e-3) return shown.toExponential(2);
    if (size >= 1000) return Math.round(shown).toLocaleString("en-US");
    return String(Number(shown.toPrecision(3)));
  };

  function navigate(href) {
    window.history.pushState({}, "", href);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    window.scrollTo(0, 0);
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    rooflake: {
      writeUrl: function () {
        const inputs = window.dash_clientside.callback_context.inputs_list.flat().filter((input) => input && input.id);
        if (!inputs.length) return noUpdate();
        const here = window.location.pathname;
        const page = inputs[0].id.page;
        if (here !== "/" + page && !(here === "/" && page === "overview")) return noUpdate();
        const parts = paramsOf(inputs);
        const search = parts.length ? "?" + parts.join("&") : "";
        if (search !== window.location.search) window.history.replaceState(window.history.state, "", here + search + window.location.hash);
        return search;
      },
      follow: function () {
        const event = window.dash_clientside.callback_context.triggered[0];
        const point = event && event.value && event.value.points && event.value.points[0];
        const target = point && point.customdata && point.customdata[0];
        if (!target) return noUpdate();
        const pinned = new URLSearchParams(window.location.search).get("snapshot");
        let href = String(target).startsWith("/") ? target : "/run?run_id=" + encode(target);
        if (pinned) href += (href.includes("?") ? "&" : "?") + "snapshot=" + pinned;
        navigate(href);
        return noUpdate();
      },
      copyLink: async function (clicks) {
        if (!clicks) return noUpdate();
        const url = new URL(window.location.href);
        if (!url.searchParams.get("snapshot")) {
          const answer = await fetch("/api");
          if (answer.ok) {
            const id = (await answer.json()).snapshot_id;
            url.search = (url.search ? url.search + "&" : "?") + "snapshot=" + id;
          }
        }
        const text = url.toString();
        document.documentElement.dataset.copiedLink = text;
        try {
          await navigator.clipboard.writeText(text);
        } catch (error) {
          window.prompt("Copy this link:", text);
        }
        setTimeout(() => window.dash_clientside.set_props("copy-link", { children: "Copy link" }), 2000);
        return "Copied";
      },
      switchScheme: function () {
        const root = document.documentElement;
        const scheme = root.getAttribute("data-mantine-color-scheme") === "dark" ? "light" : "dark";
        root.setAttribute("data-mantine-color-scheme", scheme);
        localStorage.setItem("rooflake-scheme", scheme);
        localStorage.setItem("mantine-color-scheme-value", scheme);
        return scheme;
      },
      openMenu: function (opened, navbar) {
        return Object.assign({}, navbar, { collapsed: { mobile: !opened } });
      },
      showWhere: function (pathname, ids) {
        const page = pathname === "/" ? "overview" : pathname.slice(1);
        return [ids.map((id) => id.nav === page), false];
      },
    },
  });

  /* Table: theme from the page's own colours, links that do not reload the page, Enter on a cell follows its link. */
  const functions = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});
  functions.rooflakeNumber = window.rooflakeNumber;
  const renderers = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});
  renderers.RooflakeLink = function (props) {
    if (!props.value) return "–";
    const href = props.value.href;
    const isLocal = href.startsWith("/");
    return window.React.createElement(
      "a",
      {
        href: href,
        className: "rl-cell-link",
        target: isLocal ? undefined : "_blank",
        rel: isLocal ? undefined : "noreferrer",
        onClick: (event) => {
          if (!isLocal || event.ctrlKey || event.metaKey || event.shiftKey) return;
          event.preventDefault();
          navigate(href);
        },
      },
      props.value.text
    );
  };
  renderers.RooflakeKind = function (props) {
    if (!props.value) return "–";
    return window.React.createElement(
      "span",
      { className: "rl-kind" },
      window.React.createElement("i", { className: "rl-dot rl-" + props.value }),
      props.value
    );
  };
  document.addEventListener("keydown", (event) => {
    const cell = document.activeElement;
    if (event.key === "Enter" && cell && cell.classList.contains("ag-cell")) {
      const anchor = cell.querySelector("a");
      if (anchor) anchor.click();
    }
  });
})();
