// The bars of the block-weight editor: drawn from the editor's state, painted by dragging, moved by keyboard.
// The editor (modelsmith_blocks.js) holds the values; the bars ask it for them and tell it of every change.

(function() {
    "use strict";

    const {tr, clamp, element} = window.Modelsmith;
    const weights = () => window.ModelsmithWeights;
    const shown = value => String(Math.round(value * 100) / 100);

    class Bars {
        constructor(editor) {
            this.editor = editor;
            this.columns = new Map();
            this.handles = [];
            this.range = null;
            this.typed = null;
            this.node = element("div", "ms-stage" + (editor.data.main.length > 34 ? " ms-many" : ""));
            for (const part of ["main", "side"]) this.node.append(this.build(part));
            this.node.addEventListener("keydown", event => this.shortcut(event));
            this.node.addEventListener("copy", event => {
                event.clipboardData.setData("text/plain", editor.asText());
                event.preventDefault();
            });
            this.node.addEventListener("paste", event => {
                if (event.target.tagName === "INPUT") return;
                editor.paste(event.clipboardData.getData("text/plain"));
                event.preventDefault();
            });
            this.main = editor.data.main.map(block => block.id);
            this.columns.get(this.main[0])?.node.setAttribute("tabindex", "0");
        }

        build(part) {
            const row = element("div", "ms-bars ms-bars-" + part, undefined, {
                role: "group", "aria-label": part === "main" ? tr("Blocks") : tr("Other parts"),
            });
            let group = null, place = null;
            for (const block of this.editor.data[part]) {
                if (!group || group.name !== block.set) {
                    group = {name: block.set, blocks: []};
                    const holder = element("div", "ms-bar-group ms-group-" + block.group);
                    place = element("div", "ms-group-bars");
                    holder.append(place, this.handle(group, block));
                    row.append(holder);
                    group.node = holder;
                }
                group.blocks.push(block.id);
                group.node.style.flexGrow = group.blocks.length;
                group.node.classList.toggle("ms-single", group.blocks.length === 1);
                place.append(this.bar(block));
            }
            row.addEventListener("pointerdown", event => this.start(event, row));
            row.addEventListener("pointermove", event => this.stroke && this.stroke(event));
            for (const end of ["pointerup", "pointercancel"]) row.addEventListener(end, () => this.end());
            return row;
        }

        bar(block) {
            const node = element("div", "ms-bar ms-group-" + block.group, undefined, {
                role: "slider", tabindex: "-1", "aria-orientation": "vertical", "aria-label": block.id + ", " + block.title,
                "data-block": block.id,
            });
            const parts = {node, block};
            for (const name of ["value", "track", "name"]) parts[name] = element("div", "ms-bar-" + name);
            for (const name of ["heat", "fill", "ghost"]) {
                parts[name] = element("div", "ms-bar-" + name);
                parts.track.append(parts[name]);
            }
            parts.name.textContent = block.short;
            node.append(parts.value, parts.track, parts.name);
            node.addEventListener("keydown", event => this.key(event, block.id));
            node.addEventListener("focus", () => this.focused(parts));
            node.addEventListener("blur", () => this.endTyping(true));
            node.addEventListener("pointerenter", () => this.editor.tell(block));
            node.addEventListener("pointerleave", () => this.editor.tell(null));
            this.columns.set(block.id, parts);
            return node;
        }

        handle(group, block) {
            const node = element("div", "ms-handle", undefined, {
                role: "slider", tabindex: "0", "aria-orientation": "vertical",
                "aria-label": tr("All of {group}", {group: block.setTitle}),
                title: tr("{group}: drag up or down to move all of its blocks", {group: block.setTitle}),
            });
            node.append(element("span", "ms-handle-name", block.setTitle), element("span", "ms-handle-value"));
            node.addEventListener("keydown", event => this.handleKey(event, group));
            this.handles.push({node, group});
            return node;
        }

        // Painting. With shift the stroke marks a range for the curve tools instead.

        start(event, row) {
            if (event.button !== 0) return;
            const handle = this.handles.find(one => one.node.contains(event.target));
            const at = this.nearest(event, row);
            this.editor.begin();
            row.setPointerCapture(event.pointerId);
            if (handle) this.stroke = this.dragHandle(event, handle);
            else if (event.shiftKey && this.main.includes(at)) {
                this.range = [at, at];
                this.stroke = move => { this.range[1] = this.nearest(move, row); this.draw(); };
            } else {
                if (!event.shiftKey) this.range = null;
                this.stroke = this.painting(row);
            }
            this.stroke(event);
            this.columns.get(at).node.focus({preventScroll: true});
            event.preventDefault();
        }

        nearest(event, row) {
            let found = null, least = Infinity;
            row.querySelectorAll(".ms-bar").forEach(node => {
                const box = node.getBoundingClientRect();
                const away = Math.max(box.left - event.clientX, event.clientX - box.right, 0);
                if (away < least) [least, found] = [away, node.dataset.block];
            });
            return found;
        }

        painting(row) {
            const names = Array.from(row.querySelectorAll(".ms-bar"), node => node.dataset.block);
            const {low, high} = this.editor.bounds();
            let last = -1;
            return event => {
                const at = names.indexOf(this.nearest(event, row));
                const box = this.columns.get(names[at]).track.getBoundingClientRect();
                const part = clamp((box.bottom - event.clientY) / box.height, 0, 1);
                const value = weights().round(low + (high - low) * part, 2);
                // A fast drag skips bars: those between are filled along the line.
                const from = last < 0 ? at : last;
                const first = last < 0 ? value : this.editor.value(names[from]);
                const row_ = {};
                for (let index = Math.min(from, at); index <= Math.max(from, at); index++) {
                    const way = from === at ? 1 : (index - from) / (at - from);
                    row_[names[index]] = weights().round(first + (value - first) * way, 2);
                }
                last = at;
                this.editor.set(row_);
                this.editor.tell(this.columns.get(names[at]).block);
            };
        }

        dragHandle(event, handle) {
            const begun = event.clientY, bounds = this.editor.bounds();
            const before = handle.group.blocks.map(name => this.editor.value(name));
            handle.node.focus({preventScroll: true});
            return move => {
                const by = Math.round((begun - move.clientY) / 110 * (bounds.high - bounds.low) * 100) / 100;
                if (move !== event) this.setGroup(handle.group, weights().shift(before, by, bounds));
            };
        }

        end() {
            if (!this.stroke) return;
            this.stroke = null;
            this.editor.commit();
        }

        setGroup(group, row) {
            this.editor.set(Object.fromEntries(group.blocks.map((name, at) => [name, row[at]])));
        }

        // Keyboard

        step(event) {
            const fine = event.shiftKey ? 0.01 : 0.05;
            return {ArrowUp: fine, ArrowDown: -fine, PageUp: 0.25, PageDown: -0.25}[event.key];
        }

        key(event, name) {
            if (event.ctrlKey || event.metaKey || event.altKey) return;
            this.editor.follow();
            const {low, high} = this.editor.bounds();
            const by = this.step(event);
            if (by !== undefined) this.change({[name]: clamp(this.editor.value(name) + by, low, high)});
            else if (event.key === "Home" || event.key === "End") this.change({[name]: event.key === "End" ? high : low});
            else if (event.key === "ArrowLeft" || event.key === "ArrowRight") this.walk(event, name);
            else if (event.key === "Delete") this.editor.unset(name);
            else if (!this.type(event, value => this.change({[name]: value}), this.columns.get(name).value)) return;
            event.preventDefault();
            event.stopPropagation();
        }

        handleKey(event, group) {
            if (event.ctrlKey || event.metaKey || event.altKey) return;
            this.editor.follow();
            const bounds = this.editor.bounds();
            const row = group.blocks.map(name => this.editor.value(name));
            const by = this.step(event);
            const all = value => this.change(Object.fromEntries(group.blocks.map(name => [name, value])));
            if (by !== undefined) {
                const moved = weights().shift(row, by, bounds);
                this.change(Object.fromEntries(group.blocks.map((name, at) => [name, moved[at]])));
            } else if (event.key === "Home" || event.key === "End") all(event.key === "End" ? bounds.high : bounds.low);
            else {
                const place = this.handles.find(one => one.group === group).node.querySelector(".ms-handle-value");
                if (!this.type(event, all, place)) return;
            }
            event.preventDefault();
            event.stopPropagation();
        }

        change(row) {
            this.typed = null;
            this.editor.begin();
            this.editor.set(Object.fromEntries(Object.entries(row).map(([key, value]) => [key, weights().round(value)])));
            this.editor.commit();
        }

        // Digits are collected until Enter, or until the focus goes: 0.35 and .35 are the same, and so is 35.
        type(event, act, place) {
            if (/^[0-9.\-]$/.test(event.key)) {
                this.typed = {text: (this.typed ? this.typed.text : "") + event.key, act};
                place.textContent = this.typed.text;
                return true;
            }
            if (!this.typed) return false;
            if (event.key === "Backspace") {
                this.typed.text = this.typed.text.slice(0, -1);
                place.textContent = this.typed.text;
            } else if (event.key === "Enter") this.endTyping(true);
            else if (event.key === "Escape") this.endTyping(false);
            else return false;
            return true;
        }

        endTyping(keep) {
            const typed = this.typed;
            this.typed = null;
            if (!typed) return;
            const {low, high} = this.editor.bounds();
            let value = Number(typed.text);
            if (/^\d{2,}$/.test(typed.text) && value > high) value = Number("0." + typed.text);
            if (keep && typed.text !== "" && Number.isFinite(value)) typed.act(clamp(value, low, high));
            else this.draw();
        }

        walk(event, name) {
            this.endTyping(true);
            const names = Array.from(this.columns.keys());
            const next = names[names.indexOf(name) + (event.key === "ArrowLeft" ? -1 : 1)];
            if (!next) return;
            if (event.shiftKey && this.main.includes(next) && this.main.includes(name)) {
                this.range = [this.range ? this.range[0] : name, next];
            } else this.range = null;
            this.columns.get(next).node.focus();
            this.draw();
        }

        shortcut(event) {
            const key = event.key.toLowerCase();
            if (event.key === "Escape" && this.range) this.range = null;
            else if (!event.ctrlKey && !event.metaKey) return;
            else if (key === "z" && !event.shiftKey) this.editor.undo();
            else if (key === "y" || key === "z") this.editor.redo();
            else if (key === "a") this.range = [this.main[0], this.main[this.main.length - 1]];
            else return;
            event.preventDefault();
            event.stopPropagation();
            this.draw();
        }

        focused(parts) {
            this.columns.forEach(one => one.node.setAttribute("tabindex", one === parts ? "0" : "-1"));
            this.editor.tell(parts.block);
        }

        // The blocks that the curve tools bend: the marked range, else the run from the first to the last block.
        reach() {
            if (!this.range) {
                const run = this.editor.data.main.filter(block => ["in", "middle", "out", "blocks"].includes(block.group));
                return run.map(block => block.id);
            }
            const [from, to] = this.range.map(name => this.main.indexOf(name)).sort((a, b) => a - b);
            return this.main.slice(from, to + 1);
        }

        draw() {
            const {low, high} = this.editor.bounds();
            const part = value => clamp((value - low) / (high - low), 0, 1) * 100 + "%";
            const marked = new Set(this.range ? this.reach() : []);
            for (const [name, parts] of this.columns) {
                const value = this.editor.value(name), own = this.editor.isOwn(name);
                parts.fill.style.height = part(value);
                parts.value.textContent = shown(value);
                parts.node.classList.toggle("ms-following", !own);
                parts.node.classList.toggle("ms-marked", marked.has(name));
                const other = this.editor.otherValue(name);
                parts.ghost.hidden = other === null;
                if (other !== null) parts.ghost.style.bottom = part(other);
                const heat = this.editor.heat(name);
                parts.heat.style.opacity = heat === null ? "0" : String(0.04 + 0.66 * heat);
                const told = shown(value) + (own ? "" : ", " + tr("follows"));
                for (const [key, text] of [["valuenow", value], ["valuemin", low], ["valuemax", high], ["valuetext", told]]) {
                    parts.node.setAttribute("aria-" + key, String(text));
                }
                parts.node.title = this.editor.describe(parts.block);
            }
            for (const {node, group} of this.handles) this.drawHandle(node, group, low, high);
        }

        drawHandle(node, group, low, high) {
            const row = group.blocks.map(name => this.editor.value(name));
            const mean = row.reduce((sum, value) => sum + value, 0) / row.length;
            const even = row.every(value => Math.abs(value - row[0]) < 1e-9);
            node.querySelector(".ms-handle-value").textContent = (even ? "" : "⌀ ") + shown(mean);
            for (const [key, text] of [["valuenow", mean], ["valuemin", low], ["valuemax", high], ["valuetext", shown(mean)]]) {
                node.setAttribute("aria-" + key, String(text));
            }
        }
    }

    window.ModelsmithBars = Bars;
})();
