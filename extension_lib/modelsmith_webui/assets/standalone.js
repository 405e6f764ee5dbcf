// What a webui's own scripts offer to extensions, for the standalone page: hooks, a progress bar, localisation.
// The names are those that the webuis use, so that javascript/modelsmith.js is the same in both.

(function() {
    "use strict";

    const afterLoad = [];
    const afterUpdate = [];
    let loaded = false;
    let waiting = null;

    window.opts = {};
    window.gradioApp = () => document;
    window.onUiLoaded = act => { if (loaded) act(); else afterLoad.push(act); };
    window.onAfterUiUpdate = act => afterUpdate.push(act);
    window.randomId = () => "task(" + Array.from(crypto.getRandomValues(new Uint8Array(9)), b => (b % 36).toString(36)).join("") + ")";

    const tr = text => (window.localization || {})[text] || text;

    // Progress

    function follow(task) {
        return fetch("./modelsmith/progress", {
            method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({task: task}),
        }).then(answer => answer.json());
    }

    window.modelsmithTaskState = follow;

    window.requestProgress = function(task, before, gallery, atEnd) {
        const bar = document.createElement("div");
        const fill = document.createElement("div");
        const text = document.createElement("div");
        bar.className = "progressDiv";
        fill.className = "progress";
        text.className = "progress-text";
        bar.append(fill, text);
        before.parentNode.insertBefore(bar, before);
        const begun = Date.now();
        let wasActive = false;
        const end = () => { bar.remove(); atEnd(); };
        const ask = () => follow(task).then(state => {
            wasActive = wasActive || state.active;
            const late = Date.now() - begun > 40000 && !state.queued && !state.active;
            if (state.completed || (wasActive && !state.active) || late) return end();
            fill.style.width = state.progress * 100 + "%";
            const done = state.progress > 0 ? Math.round(state.progress * 100) + "%" : "";
            text.textContent = state.queued ? tr("Waits until the other job has ended") : [state.textinfo, done].filter(Boolean).join(" · ");
            setTimeout(ask, 200);
        }, end);
        ask();
    };

    // Localisation: whole text nodes, placeholders and titles, by the exact English text.

    const untouched = new Set(["SCRIPT", "STYLE", "TEXTAREA", "CODE"]);
    const table = window.localization || {};
    const translating = Object.keys(table).length > 0;

    function translate(node) {
        if (node.nodeType === Node.TEXT_NODE) {
            const found = node.parentElement && !untouched.has(node.parentElement.nodeName) && table[node.textContent.trim()];
            if (found && found !== node.textContent) node.textContent = found;
            return;
        }
        if (node.nodeType !== Node.ELEMENT_NODE) return;
        for (const name of ["title", "placeholder", "aria-label"]) {
            const found = table[node.getAttribute(name)];
            if (found) node.setAttribute(name, found);
        }
        node.childNodes.forEach(translate);
    }

    // The head of the page: name, language, light or dark.

    function goTo(changes) {
        const query = new URLSearchParams(location.search);
        for (const key in changes) query.set(key, changes[key]);
        location.search = query.toString();
    }

    function buildBar() {
        const bar = document.createElement("div");
        bar.id = "modelsmith_bar";
        const name = document.createElement("span");
        name.className = "ms-app-name";
        name.textContent = "Modelsmith";
        const language = document.createElement("select");
        language.id = "modelsmith_language";
        language.setAttribute("aria-label", "Language / 言語");
        for (const [code, label] of [["", "English"], ["ja_JP", "日本語"]]) {
            language.add(new Option(label, code, false, code === (window.modelsmithLanguage || "")));
        }
        language.addEventListener("change", () => goTo({__lang: language.value}));
        const theme = document.createElement("button");
        theme.id = "modelsmith_theme";
        theme.type = "button";
        theme.textContent = "◐";
        theme.title = "Light or dark";
        theme.addEventListener("click", () => goTo({__theme: document.body.classList.contains("dark") ? "light" : "dark"}));
        bar.append(name, language, theme);
        document.body.prepend(bar);
        document.documentElement.lang = (window.modelsmithLanguage || "en").slice(0, 2);
    }

    function onChange(changes) {
        if (translating) {
            for (const change of changes) change.addedNodes.forEach(translate);
        }
        if (!loaded && document.getElementById("modelsmith_views")) {
            loaded = true;
            afterLoad.forEach(act => act());
        }
        clearTimeout(waiting);
        waiting = setTimeout(() => afterUpdate.forEach(act => act()), 100);
    }

    document.addEventListener("DOMContentLoaded", () => {
        buildBar();
        // On a slow machine gradio may have drawn parts of its page already.
        if (translating) translate(document.body);
        new MutationObserver(onChange).observe(document.body, {childList: true, subtree: true});
        onChange([]);
    });
})();
