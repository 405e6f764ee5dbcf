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

    // A mark in the corner of a selector stands in the line of the selector's label and leaves it its room. Where that is
    // too little for its text, the short form stands there alone. Labels come and go, so it is looked at again and again.
    const corners = new Map();
    const LEAST_TEXT = 72; // pixels: less holds no word, only the beginning of one

    function fitBesideLabel(mark, holder) {
        const label = holder.querySelector("[data-testid=block-info], label > span");
        if (!label) return;
        const text = document.createRange();
        text.selectNodeContents(label);
        const all = holder.getBoundingClientRect(), line = text.getBoundingClientRect();
        const seen = [all.width, line.width, line.right - all.left, line.top - all.top, mark.dataset.full].join();
        if (!all.width || !line.width || mark.dataset.fitted === seen) return;
        mark.dataset.fitted = seen;
        mark.textContent = mark.dataset.full;
        const room = Math.max(28, all.right - line.right - 16);
        mark.style.maxWidth = room + "px";
        const cut = mark.scrollWidth > mark.clientWidth;
        if (cut && room < LEAST_TEXT && mark.dataset.short) mark.textContent = mark.dataset.short;
        mark.style.top = Math.round(line.top + line.height / 2 - mark.offsetHeight / 2 - all.top) + "px";
    }

    function besideLabel(holder, mark, full, short) {
        mark.dataset.full = full;
        mark.dataset.short = short;
        corners.set(mark, holder);
        if (!mark.textContent) mark.textContent = full;
        fitBesideLabel(mark, holder);
    }

    function tendCorners() {
        corners.forEach((holder, mark) => {
            if (mark.isConnected) fitBesideLabel(mark, holder);
            else corners.delete(mark);
        });
    }

    window.addEventListener("resize", tendCorners);

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

    // Tells the server something through a field out of sight, which holds its ticket alone when it was heard. Until then
    // the next thing waits, and what is not heard is said again: gradio drops the event of a component while its last
    // one is being answered. A ticket tells the server what it has heard before.
    const PAUSES = [700, 1500, 3000, 6000, 12000, 24000]; // milliseconds
    const unheard = new Map();
    let tickets = 0;

    function tell(id, message) {
        const waiting = unheard.get(id) || [];
        unheard.set(id, waiting);
        waiting.push({ticket: Date.now().toString(36) + "." + tickets++, text: JSON.stringify(message)});
        if (waiting.length === 1) say(id, 0);
    }

    function say(id, times) {
        const waiting = unheard.get(id), due = Date.now() + PAUSES[times];
        write(fieldOf(id), `${waiting[0].ticket} ${waiting[0].text}${" ".repeat(times)}`);
        (function look() {
            const heard = fieldOf(id)?.value === waiting[0].ticket, lost = times + 1 === PAUSES.length;
            if (!heard && Date.now() < due) return void setTimeout(look, 30);
            if (!heard && !lost) return say(id, times + 1);
            waiting.shift();
            if (waiting.length) setTimeout(say, 30, id, 0);
        })();
    }

    // A field out of sight that is read with others; what it says stays in it.
    const note = (id, message) => write(fieldOf(id), JSON.stringify(message));

    function pageData() {
        const holder = root().querySelector(".ms-page");
        return holder ? holder.dataset : {};
    }

    // The page's language and not the browser's: sentences of the API stand beside those of the page.
    const pageLanguage = () => String(window.modelsmithLanguage ?? pageData().language ?? "").slice(0, 2);

    function ask(path, body) {
        const headers = {"Accept-Language": pageLanguage() === "ja" ? "ja" : "en"};
        if (pageData().token) headers["X-Modelsmith-Token"] = pageData().token;
        const options = {headers: headers, credentials: "same-origin"};
        if (body) {
            options.method = "POST";
            options.body = JSON.stringify(body);
            headers["Content-Type"] = "application/json";
        }
        return fetch("./modelsmith/v1/" + path, options).then(answer => {
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

    // A page that is left breaks off its questions, which a progress bar takes for the end of its task.
    let leaving = false;
    window.addEventListener("beforeunload", () => {
        leaving = true;
        setTimeout(() => { leaving = false; }, 5000); // somebody may have stayed after all
    });

    // The tasks whose bars this page shows, by view, the newest last: that one is meant by the view's button to stop.
    const followed = new Map();
    const ownTask = view => (followed.get(view) || []).at(-1) || "";

    // A button whose work is under way rests: pressed once more, it would do the same work twice. The second press of a
    // double click does nothing in any case.
    const ONCE = /^modelsmith_(\w+_start|merge_queue|merge_recipe)$/;
    const LONGEST_REST = 30000; // milliseconds, where no job tells the end
    const resting = new Map();

    function rest(id, forJob) {
        clearTimeout(resting.get(id));
        resting.set(id, forJob ? 0 : setTimeout(wake, LONGEST_REST, id));
        byId(id)?.setAttribute("aria-disabled", "true");
    }

    function wake(id) {
        clearTimeout(resting.get(id));
        resting.delete(id);
        byId(id)?.removeAttribute("aria-disabled");
    }

    window.addEventListener("click", event => {
        const button = event.composedPath().find(one => ONCE.test(one.id));
        if (!button || (event.detail < 2 && !resting.has(button.id))) return;
        event.stopImmediatePropagation();
        event.preventDefault();
    }, true);

    // Shows the host's progress bar for a task before `place`, and marks `whole` as long as it runs.
    function followTask(view, id, place, whole, atEnd) {
        remember(view, id);
        followed.set(view, [...followed.get(view) || [], id]);
        whole?.classList.add("ms-running");
        rest(`modelsmith_${view}_start`, true);
        requestProgress(id, place, null, () => {
            if (leaving) return;
            followed.set(view, followed.get(view).filter(one => one !== id));
            if (remembered(view) === id) remember(view, null);
            if (!ownTask(view)) {
                whole?.classList.remove("ms-running");
                wake(`modelsmith_${view}_start`);
            }
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

    // gradio 3 drops the event of a component while its last one is still being answered, so that after quick typing or
    // a dragged slider a summary can stay behind. Where the fields of a view rest at values that were not asked about,
    // its button out of sight is pressed. Returns what is to be called at each question.
    function askAgain(viewId, buttonId) {
        let askedFor = null, last = null;
        const shown = field => (field.type === "checkbox" || field.type === "radio" ? field.checked : field.value);
        const fields = view => Array.from(view.querySelectorAll("input, textarea"), shown).join("\u0001");
        onTend(() => {
            const view = byId(viewId);
            if (askedFor === null || !view || !view.offsetParent) return;
            if (document.activeElement?.getAttribute("aria-expanded") === "true") return; // a list is being searched
            const now = fields(view);
            if (now !== askedFor && now === last) byId(buttonId)?.click();
            last = now;
        });
        return () => { askedFor = fields(byId(viewId)); };
    }

    // Buttons in a piece of HTML: one presses a button of the page, one opens a file in the Inspect view.
    document.addEventListener("click", event => {
        const button = event.target.closest && event.target.closest("[data-press], [data-open]");
        if (!button) return;
        if (button.dataset.press) byId(button.dataset.press)?.click();
        else tell("modelsmith_library_open", {name: button.dataset.open});
    });

    // Shows that an answer is awaited, where it does not come at once. Each answer differs from the one before by its
    // ticket, so that it is seen to come.
    const SOON = 500, LATEST = 30000; // milliseconds
    const awaited = new Map();

    function answerAwaited(id) {
        const place = byId(id);
        if (!place) return;
        answered(place);
        awaited.set(place, [
            setTimeout(() => { place.dataset.asking = tr("Working it out …"); place.classList.add("ms-asking"); }, SOON),
            setTimeout(() => answered(place), LATEST),
        ]);
        if (place.dataset.watched) return;
        place.dataset.watched = "1";
        // gradio changes other things in it, too, while it waits.
        let last = ticketIn(place);
        new MutationObserver(() => {
            const now = ticketIn(place);
            if (now !== last) answered(place);
            last = now;
        }).observe(place, {childList: true, subtree: true, attributes: true, attributeFilter: ["data-ticket"]});
    }

    const ticketIn = place => place.querySelector("[data-ticket]")?.dataset.ticket;

    function answered(place) {
        (awaited.get(place) || []).forEach(clearTimeout);
        awaited.delete(place);
        place.classList.remove("ms-asking");
    }

    onTend(tendCorners);
    // A button that was drawn anew meanwhile.
    onTend(() => resting.forEach((_, id) => byId(id)?.setAttribute("aria-disabled", "true")));

    // A name that is cut off is told in full.
    onTend(() => root().querySelectorAll("#modelsmith_views .secondary-wrap input").forEach(field => {
        if (field.offsetParent) field.title = field.scrollWidth > field.clientWidth ? field.value : "";
    }));

    function tend() {
        for (const act of tenders) act();
    }

    window.Modelsmith = {root, byId, tr, clamp, besideLabel, element, write, fieldOf, tell, note, pageData, ask, onTend, rest, wake, followTask, ownTask, takeUp, askAgain, answerAwaited};

    if (typeof onUiLoaded === "function") {
        onUiLoaded(function() {
            tend();
            // Values of fields change without a trace in the page; looking twice a second costs nothing.
            setInterval(tend, 500);
        });
    }
    if (typeof onAfterUiUpdate === "function") onAfterUiUpdate(tend);
})();
