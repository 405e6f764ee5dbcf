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

    // A job goes on when its page is left. What runs is kept by view, so that a page which is opened meanwhile follows it.

    const keyOf = view => "modelsmith_job_" + view;

    function remember(view, id) {
        try {
            if (id) localStorage.setItem(keyOf(view), id);
            else localStorage.removeItem(keyOf(view));
        } catch {
            // a browser that keeps nothing: the job runs on all the same
        }
    }

    function remembered(view) {
        try {
            return localStorage.getItem(keyOf(view));
        } catch {
            return null;
        }
    }

    // The webuis answer at this address for their own progress bars.
    function taskState(id) {
        if (window.modelsmithTaskState) return window.modelsmithTaskState(id);
        return fetch("./internal/progress", {
            method: "POST", headers: {"Content-Type": "application/json"}, credentials: "same-origin",
            body: JSON.stringify({id_task: id, live_preview: false}),
        }).then(answer => answer.json());
    }

    // Shows the host's progress bar for a task before `place`, and marks `whole` as long as it runs.
    function followTask(view, id, place, whole, atEnd) {
        remember(view, id);
        whole?.classList.add("ms-running");
        requestProgress(id, place, null, () => {
            if (remembered(view) === id) remember(view, null);
            whole?.classList.remove("ms-running");
            atEnd();
        });
    }

    // Calls `found` with the id of the view's task where one from before this page was opened still runs or waits, and
    // `ended` where it has come to its end since the other page was left.
    function takeUp(view, found, ended) {
        const id = typeof requestProgress === "function" ? remembered(view) : null;
        if (!id) return;
        taskState(id).then(state => {
            if (state.active || state.queued) return found(id);
            if (remembered(view) === id) remember(view, null);
            if (state.completed) ended(id);
        }, () => {});
    }

    const tenders = [];
    const onTend = act => tenders.push(act);

    function tend() {
        for (const act of tenders) act();
    }

    window.Modelsmith = {root, byId, tr, clamp, element, write, fieldOf, tell, pageData, ask, onTend, followTask, takeUp};

    if (typeof onUiLoaded === "function") {
        onUiLoaded(function() {
            tend();
            // Values of fields change without a trace in the page; looking twice a second costs nothing.
            setInterval(tend, 500);
        });
    }
    if (typeof onAfterUiUpdate === "function") onAfterUiUpdate(tend);
})();
