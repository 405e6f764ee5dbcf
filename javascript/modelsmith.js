// What every script of Modelsmith uses: finding and filling elements, asking the API, and the round in which each part
// looks for its elements anew. A part whose elements are missing does nothing. The webuis load this file first.

(function() {
    "use strict";

    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const byId = id => root().querySelector("#" + id);
    const tr = (text, values) => {
        const found = (window.localization && window.localization[text]) || text;
        return values ? found.replace(/{(\w+)}/g, (whole, name) => name in values ? values[name] : whole) : found;
    };
    const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

    function element(name, css, text, attributes) {
        const made = document.createElement(name);
        if (css) made.className = css;
        if (text !== undefined) made.textContent = text;
        for (const key in attributes || {}) made.setAttribute(key, attributes[key]);
        return made;
    }

    // gradio listens for "input"; setting a value alone tells it nothing.
    function write(field, value) {
        if (!field || field.value === value) return;
        const prototype = field.tagName === "TEXTAREA" ? HTMLTextAreaElement.prototype : HTMLInputElement.prototype;
        Object.getOwnPropertyDescriptor(prototype, "value").set.call(field, value);
        field.dispatchEvent(new Event("input", {bubbles: true}));
    }

    const fieldOf = id => {
        const holder = byId(id);
        return holder && (holder.querySelector("textarea") || holder.querySelector("input"));
    };

    // Tells the server something through a field out of sight. The moment is part of it, so that the same can be said twice.
    const tell = (id, message) => write(fieldOf(id), JSON.stringify({...message, at: Date.now()}));

    function pageData() {
        const holder = root().querySelector(".ms-page");
        return holder ? holder.dataset : {};
    }

    function ask(path) {
        const headers = pageData().token ? {"X-Modelsmith-Token": pageData().token} : {};
        return fetch("./modelsmith/v1/" + path, {headers: headers, credentials: "same-origin"}).then(answer => {
            if (!answer.ok) throw new Error(String(answer.status));
            return answer.json();
        });
    }

    const tenders = [];
    const onTend = act => tenders.push(act);

    function tend() {
        for (const act of tenders) act();
    }

    window.Modelsmith = {root, byId, tr, clamp, element, write, fieldOf, tell, pageData, ask, onTend};

    if (typeof onUiLoaded === "function") {
        onUiLoaded(function() {
            tend();
            // Values of fields change without a trace in the page; looking twice a second costs nothing.
            setInterval(tend, 500);
        });
    }
    if (typeof onAfterUiUpdate === "function") onAfterUiUpdate(tend);
})();
