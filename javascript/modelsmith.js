// Modelsmith in the page: the badge beside the checkpoint selector, the block-weight bars, the library table and the
// start of a merge. Every part looks for its elements anew and does nothing where they are missing.

(function() {
    "use strict";

    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const byId = id => root().querySelector("#" + id);
    const tr = text => (window.localization && window.localization[text]) || text;
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

    // Starting a merge: the first argument becomes the id of the task, and the host's progress bar follows it.

    function listRefreshButton() {
        return byId("refresh_sd_model_checkpoint") || byId("forge_refresh_checkpoint");
    }

    // gradio hands over the values of the outputs too; only the inputs are to be sent back.
    const mergeInputs = values => Array.from(values).slice(0, Number(pageData().mergeInputs) || undefined);

    // Each question for the summary carries a ticket, so that an answer which was overtaken is not shown.
    const pageId = Math.random().toString(36).slice(2);
    let asked = 0;

    window.modelsmithPlan = function() {
        const args = mergeInputs(arguments);
        args[0] = pageId + ":" + (asked += 1);
        return args;
    };

    window.modelsmithSubmit = function() {
        const args = mergeInputs(arguments);
        if (typeof requestProgress !== "function" || typeof randomId !== "function") return args;
        const id = randomId();
        const place = byId("modelsmith_progress");
        args[0] = id;
        if (place) {
            root().querySelector(".ms-merge-view")?.classList.add("ms-running");
            requestProgress(id, place, null, function() {
                root().querySelector(".ms-merge-view")?.classList.remove("ms-running");
                // The host's own list is asked to look again, so that the result is there at once.
                const button = listRefreshButton();
                if (button) setTimeout(() => button.click(), 300);
            });
        }
        return args;
    };

    // Block weights

    const SHOWN = value => String(Math.round(value * 10000) / 10000);

    function parse(text, count) {
        const parts = text.split(/[,\n]/).map(part => part.trim()).filter(part => part !== "");
        if (!parts.length) return null;
        const values = parts.map(Number);
        return values.length === count && values.every(Number.isFinite) ? values : undefined;
    }

    class BlockEditor {
        constructor(holder) {
            this.holder = holder;
            this.data = JSON.parse(holder.dataset.editor);
            this.text = () => fieldOf(holder.dataset.text);
            this.seen = null;
            this.base = null;
            this.values = [];
            this.own = false;
            this.undone = [];
            this.build();
            this.follow();
        }

        sliderValue() {
            const slider = byId(this.holder.dataset.slider);
            const field = slider && slider.querySelector("input[type=number]");
            const value = field ? Number(field.value) : NaN;
            return Number.isFinite(value) ? value : 0.5;
        }

        build() {
            this.holder.replaceChildren();
            const head = element("div", "ms-blocks-head");
            head.append(element("span", "ms-blocks-title", tr("Block weights")));
            head.append(element("span", "ms-blocks-layout", this.data.label));
            this.state = element("span", "ms-blocks-state");
            head.append(this.state);
            const tools = element("span", "ms-blocks-tools");
            this.select = element("select", "ms-select", undefined, {"aria-label": tr("Preset")});
            this.select.append(new Option(tr("Preset…"), ""));
            for (const name of Object.keys(this.data.presets)) this.select.append(new Option(name, name));
            this.select.addEventListener("change", () => {
                const row = this.data.presets[this.select.value];
                if (row) this.change(row.slice());
                this.select.value = "";
            });
            tools.append(this.select);
            this.tool(tools, "Mirror", () => this.change(this.mirrored()));
            this.tool(tools, "Invert", () => this.change(this.values.map(value => clamp(1 - value, 0, 1))));
            this.undoButton = this.tool(tools, "Undo", () => this.undo());
            this.tool(tools, "Clear", () => this.clear());
            head.append(tools);
            this.holder.append(head, this.bars(), element("div", "ms-blocks-hint",
                tr("Drag across the bars, or use the arrow keys. Empty means the same weight everywhere.")));
        }

        tool(place, name, act) {
            const button = element("button", "ms-mini", tr(name), {type: "button"});
            button.addEventListener("click", act);
            place.append(button);
            return button;
        }

        bars() {
            const row = element("div", "ms-bars");
            let group = null;
            this.columns = this.data.blocks.map((block, index) => {
                if (group !== null && group !== block.group) row.append(element("div", "ms-bar-gap"));
                group = block.group;
                const column = element("div", "ms-bar ms-group-" + block.group, undefined, {
                    role: "slider", tabindex: "0", "aria-valuemin": "0", "aria-valuemax": "1",
                    "aria-label": block.id + ", " + block.title, "data-index": String(index),
                });
                column.append(element("div", "ms-bar-value"));
                const track = element("div", "ms-bar-track");
                track.append(element("div", "ms-bar-fill"));
                column.append(track, element("div", "ms-bar-name", block.id.replace(/^(IN|OUT)(?=\d)/, "")));
                column.addEventListener("keydown", event => this.key(event, index));
                row.append(column);
                return column;
            });
            row.addEventListener("pointerdown", event => this.paintStart(event, row));
            row.addEventListener("pointermove", event => this.painting && this.paint(event));
            for (const end of ["pointerup", "pointercancel"]) row.addEventListener(end, () => this.paintEnd());
            return row;
        }

        paintStart(event, row) {
            if (event.button !== 0) return;
            this.painting = true;
            this.before = this.own ? this.values.slice() : null;
            row.setPointerCapture(event.pointerId);
            this.lastIndex = null;
            this.paint(event);
            event.preventDefault();
        }

        paint(event) {
            let index = -1, nearest = Infinity;
            this.columns.forEach((column, place) => {
                const box = column.getBoundingClientRect();
                const away = Math.max(box.left - event.clientX, event.clientX - box.right, 0);
                if (away < nearest) [nearest, index] = [away, place];
            });
            const track = this.columns[index].querySelector(".ms-bar-track").getBoundingClientRect();
            const value = clamp(Math.round((track.bottom - event.clientY) / track.height * 100) / 100, 0, 1);
            // A fast drag skips bars: those between are filled along the line.
            const from = this.lastIndex === null ? index : this.lastIndex;
            const start = this.lastIndex === null ? value : this.values[from];
            for (let at = Math.min(from, index); at <= Math.max(from, index); at++) {
                const part = from === index ? 1 : (at - from) / (index - from);
                this.values[at] = Math.round((start + (value - start) * part) * 100) / 100;
            }
            this.lastIndex = index;
            this.own = true;
            this.draw();
        }

        paintEnd() {
            if (!this.painting) return;
            this.painting = false;
            this.remember(this.before);
            this.commit();
            this.draw();
        }

        key(event, index) {
            const step = event.shiftKey ? 0.01 : 0.05;
            const moves = {ArrowUp: step, ArrowDown: -step, PageUp: 0.25, PageDown: -0.25};
            let value;
            if (event.key in moves) value = this.values[index] + moves[event.key];
            else if (event.key === "Home") value = 0;
            else if (event.key === "End") value = 1;
            else if (/^[0-9]$/.test(event.key)) value = Number(event.key) / 10;
            else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
                const next = this.columns[index + (event.key === "ArrowLeft" ? -1 : 1)];
                if (next) next.focus();
                event.preventDefault();
                return;
            } else return;
            event.preventDefault();
            const row = this.values.slice();
            row[index] = Math.round(clamp(value, 0, 1) * 10000) / 10000;
            this.change(row);
        }

        mirrored() {
            // Turned around from IN to OUT; what stands outside that run keeps its place.
            const places = this.data.blocks.map((block, index) => index)
                .filter(index => ["in", "middle", "out", "blocks"].includes(this.data.blocks[index].group));
            const row = this.values.slice();
            places.forEach((place, order) => { row[place] = this.values[places[places.length - 1 - order]]; });
            return row;
        }

        change(row) {
            this.remember(this.own ? this.values.slice() : null);
            this.values = row;
            this.own = true;
            this.commit();
            this.draw();
        }

        clear() {
            if (!this.own) return;
            this.remember(this.values.slice());
            write(this.text(), "");
            this.follow();
        }

        remember(row) {
            this.undone.push(row);
            if (this.undone.length > 100) this.undone.shift();
        }

        undo() {
            if (!this.undone.length) return;
            const row = this.undone.pop();
            this.values = row || [];
            this.own = Boolean(row);
            this.commit();
            this.follow();
        }

        commit() {
            const text = this.own ? this.values.map(SHOWN).join(",") : "";
            this.seen = text;
            write(this.text(), text);
        }

        // Brings the bars in line with the text field and the slider; called often, draws only on a change.
        follow() {
            const field = this.text();
            if (!field || this.painting) return;
            const base = this.sliderValue();
            if (field.value === this.seen && (this.own || base === this.base)) return;
            this.seen = field.value;
            this.base = base;
            const found = parse(field.value, this.columns.length);
            this.own = Array.isArray(found);
            this.holder.classList.toggle("ms-unread", found === undefined);
            this.values = this.own ? found : new Array(this.columns.length).fill(base);
            this.draw();
        }

        draw() {
            this.holder.classList.toggle("ms-plain", !this.own);
            this.undoButton.disabled = !this.undone.length;
            const unread = this.holder.classList.contains("ms-unread") && !this.own;
            this.state.textContent = unread ? tr("as written below") : this.own ? tr("own weights") : tr("same everywhere");
            this.columns.forEach((column, index) => {
                const value = this.values[index];
                column.querySelector(".ms-bar-fill").style.height = clamp(value, 0, 1) * 100 + "%";
                column.querySelector(".ms-bar-value").textContent = String(Math.round(value * 100) / 100);
                column.setAttribute("aria-valuenow", String(value));
                const block = this.data.blocks[index];
                column.title = block.id + " · " + block.title + " · " + SHOWN(value);
            });
        }
    }

    const editors = new Map();

    function tendEditors() {
        for (const holder of editors.keys()) if (!holder.isConnected) editors.delete(holder);
        root().querySelectorAll(".ms-blocks").forEach(holder => {
            if (!editors.has(holder)) editors.set(holder, new BlockEditor(holder));
        });
        editors.forEach(editor => { if (editor.holder.offsetParent) editor.follow(); });
    }

    // Library: sorting, filtering, opening a row.

    function sortValue(cell) {
        const value = cell ? cell.dataset.sort || cell.textContent : "";
        return value !== "" && Number.isFinite(Number(value)) ? Number(value) : value.toLowerCase();
    }

    function sortTable(table, column, button) {
        const down = button.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("th").forEach(head => head.setAttribute("aria-sort", "none"));
        button.setAttribute("aria-sort", down ? "descending" : "ascending");
        libraryState.column = column;
        libraryState.down = down;
        const body = table.tBodies[0];
        const rows = Array.from(body.rows).map(row => [sortValue(row.cells[column]), row]);
        const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
        rows.sort((a, b) => (down ? -1 : 1) * compare(a[0], b[0]));
        body.append(...rows.map(pair => pair[1]));
    }

    function filterTable(library) {
        const words = library.querySelector(".ms-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
        const kind = library.querySelector(".ms-kind-filter").value;
        libraryState.text = library.querySelector(".ms-filter").value;
        libraryState.kind = kind;
        let shown = 0;
        for (const row of library.querySelector("tbody").rows) {
            const text = row.textContent.toLowerCase();
            row.hidden = Boolean(kind && row.dataset.kind !== kind) || !words.every(word => text.includes(word));
            shown += row.hidden ? 0 : 1;
        }
        library.querySelector(".ms-shown").textContent = String(shown);
    }

    // A new table takes over what the user had typed and how the old one was sorted.
    const libraryState = {text: "", kind: "", column: -1, down: false};

    function restoreLibrary(library) {
        const text = library.querySelector(".ms-filter");
        const kind = library.querySelector(".ms-kind-filter");
        text.value = libraryState.text;
        kind.value = libraryState.kind;
        if (kind.selectedIndex < 0) kind.value = "";
        const head = library.querySelectorAll("th")[libraryState.column];
        if (head) {
            head.setAttribute("aria-sort", libraryState.down ? "ascending" : "none");
            sortTable(library.querySelector("table"), libraryState.column, head);
        }
        if (text.value || kind.value) filterTable(library);
    }

    function openRow(row) {
        const field = fieldOf("modelsmith_library_open");
        // The moment is part of the value, so that the same row can be opened twice.
        write(field, JSON.stringify({name: row.dataset.name, at: Date.now()}));
    }

    function tendLibrary() {
        root().querySelectorAll(".ms-library:not([data-ready])").forEach(library => {
            library.dataset.ready = "1";
            // Files are still being read: the table is asked for again until none is waiting.
            if (Number(library.dataset.waiting) > 0) setTimeout(() => byId("modelsmith_library_poll")?.click(), 700);
            restoreLibrary(library);
            const table = library.querySelector("table");
            library.querySelector(".ms-filter").addEventListener("input", () => filterTable(library));
            library.querySelector(".ms-kind-filter").addEventListener("change", () => filterTable(library));
            table.querySelectorAll("th").forEach((head, column) => {
                const act = () => sortTable(table, column, head);
                head.addEventListener("click", act);
                head.addEventListener("keydown", event => {
                    if (event.key === "Enter" || event.key === " ") { act(); event.preventDefault(); }
                });
            });
            table.tBodies[0].addEventListener("click", event => {
                const row = event.target.closest("tr");
                if (row) openRow(row);
            });
            table.tBodies[0].addEventListener("keydown", event => {
                const row = event.target.closest("tr");
                if (row && event.key === "Enter") openRow(row);
            });
        });
    }

    // The badge beside the checkpoint selector. On A1111 the selector has an id, on Forge only a class.

    let badgeFor = null;

    function selector() {
        return byId("setting_sd_model_checkpoint") || root().querySelector("#quicksettings .model_selection, .model_selection");
    }

    function badgeTooltip(report) {
        const lines = ((report.prediction || {}).evidence || []).map(found => {
            return found.source + ": " + found.detail + " (" + tr(found.grade === "default" ? "assumed" : found.grade) + ")";
        });
        return [report.file].concat(lines, report.warnings || []).map(String).join("\n");
    }

    function showBadge(holder, report) {
        let badge = holder.querySelector(".ms-host-badge");
        if (!report || !report.badge) {
            if (badge) badge.remove();
            return;
        }
        if (!badge) {
            badge = element("span", "ms-host-badge");
            holder.classList.add("ms-badge-holder");
            holder.append(badge);
        }
        badge.textContent = report.badge;
        badge.title = badgeTooltip(report);
        const warned = report.error || (report.warnings || []).length || (report.prediction || {}).conflict;
        badge.classList.toggle("ms-warned", Boolean(warned));
    }

    function tendBadge(again) {
        if (typeof opts === "object" && opts && opts.modelsmith_badge === false) return;
        const holder = selector();
        const field = holder && holder.querySelector("input");
        if (!field || !pageData().token) return;
        // While somebody types in it, the field holds a search, not a choice.
        if (document.activeElement === field && field.getAttribute("aria-expanded") === "true") return;
        const name = field.value.trim();
        if (!again && name === badgeFor && (!name || holder.querySelector(".ms-host-badge, .ms-no-badge"))) return;
        badgeFor = name;
        if (!name) return showBadge(holder, null);
        if (!holder.querySelector(".ms-no-badge")) {
            const mark = element("span", "ms-no-badge");
            mark.hidden = true;
            holder.append(mark);
        }
        ask("identify?name=" + encodeURIComponent(name)).then(
            report => { if (badgeFor === name) showBadge(holder, report); },
            () => { if (badgeFor === name) showBadge(holder, null); }
        );
    }

    window.modelsmithBadgeAgain = () => tendBadge(true);

    function tend() {
        tendEditors();
        tendLibrary();
        tendBadge(false);
    }

    if (typeof onUiLoaded === "function") {
        onUiLoaded(function() {
            tend();
            // Values of fields change without a trace in the page; looking twice a second costs nothing.
            setInterval(tend, 500);
        });
    }
    if (typeof onAfterUiUpdate === "function") onAfterUiUpdate(tend);
})();
