// The block-weight editor of the Merge view: layers (alpha, beta), presets, curve tools, undo, copy and paste.
// The values live in the text fields beside it, one for each layer; the editor and the fields stay in step both ways.

(function() {
    "use strict";

    const {root, byId, tr, element, write, fieldOf, tell, onTend} = window.Modelsmith;
    const weights = () => window.ModelsmithWeights;
    const UNDO_KEPT = 100;

    function sliderOf(id) {
        const holder = byId(id);
        const number = holder && holder.querySelector("input[type=number]");
        const track = holder && holder.querySelector("input[type=range]");
        const value = Number(number ? number.value : NaN);
        const [low, high] = [Number(track ? track.min : 0), Number(track ? track.max : 1)];
        return {value: Number.isFinite(value) ? value : 0.5, low, high: high > low ? high : low + 1};
    }

    const percentText = part => String(part >= 0.1 ? Math.round(part * 100) : Number((part * 100).toPrecision(2)));

    class BlockEditor {
        constructor(holder) {
            this.holder = holder;
            this.data = JSON.parse(holder.dataset.editor);
            this.data.names = new Set([...this.data.main, ...this.data.side].map(block => block.id).concat(this.data.row));
            this.follows = new Map(this.data.side.map(block => [block.id, block.follows]));
            this.layers = this.data.layers.map(layer => ({...layer, own: {}, unread: false, seen: null, base: null}));
            this.active = this.layers[0];
            this.undone = [];
            this.redone = [];
            this.build();
            this.follow();
        }

        // The page

        build() {
            this.holder.replaceChildren();
            this.bars = new window.ModelsmithBars(this);
            this.holder.append(this.head(), this.tools(), this.bars.node, this.foot());
            this.tell(null);
        }

        // What comes and goes stands below the bars, in a place of its own: nothing moves when it changes.
        foot() {
            const foot = element("div", "ms-blocks-foot");
            this.info = element("span", "ms-blocks-info");
            this.said = element("span", "ms-blocks-said", "", {role: "status"});
            this.state = element("span", "ms-blocks-state");
            foot.append(this.info, this.said, this.state);
            return foot;
        }

        head() {
            const head = element("div", "ms-blocks-head");
            head.append(element("span", "ms-blocks-title", tr("Block weights")));
            head.append(element("span", "ms-blocks-layout", this.data.label));
            if (this.layers.length > 1) {
                const tabs = element("span", "ms-layers-tabs", undefined, {role: "group", "aria-label": tr("Layer")});
                for (const layer of this.layers) {
                    layer.button = this.button(tabs, layer.label, () => this.choose(layer), "ms-mini ms-layer");
                }
                head.append(tabs);
            }
            const right = element("span", "ms-blocks-tools");
            right.append(this.presetSelect());
            this.button(right, tr("Save as preset"), () => this.toggleSaving());
            this.button(right, tr("Copy"), () => this.copy());
            this.button(right, tr("Paste"), () => this.pasteFromClipboard());
            head.append(right, this.savingForm());
            return head;
        }

        tools() {
            const bar = element("div", "ms-blocks-curves", undefined, {role: "toolbar", "aria-label": tr("Curve tools")});
            const add = (text, name, title) => this.button(bar, text, () => this.bend(name)).title = title;
            add(tr("Line"), "line", tr("A straight line from the first to the last block"));
            add(tr("Ease"), "ease", tr("A soft curve from the first to the last block"));
            add(tr("Smooth"), "smooth", tr("Each block nearer to its neighbours"));
            add(tr("Mirror"), "mirror", tr("The last block first"));
            add(tr("Invert"), "invert", tr("High becomes low"));
            add(tr("Scale"), "scale", tr("Times the number beside it"));
            this.factor = element("input", "ms-factor", undefined, {
                type: "number", step: "0.1", value: "0.5", "aria-label": tr("Factor for scaling"),
            });
            bar.append(this.factor);
            const right = element("span", "ms-blocks-tools");
            this.undoButton = this.button(right, tr("Undo"), () => this.undo());
            this.redoButton = this.button(right, tr("Redo"), () => this.redo());
            this.button(right, tr("Clear"), () => this.clear());
            bar.append(right);
            return bar;
        }

        button(place, text, act, css = "ms-mini") {
            const made = element("button", css, text, {type: "button"});
            made.addEventListener("click", act);
            place.append(made);
            return made;
        }

        presetSelect() {
            this.select = element("select", "ms-select", undefined, {"aria-label": tr("Preset")});
            this.fillPresets();
            this.select.addEventListener("change", () => {
                const chosen = this.select.value;
                this.select.value = "";
                if (chosen.startsWith("place:")) return this.placeAsIn(chosen.slice(6));
                const text = chosen.startsWith("own:") ? this.data.own[chosen.slice(4)] : chosen;
                const found = text && weights().pasted(text, this.data);
                if (found) this.act(() => { this.active.own = found; });
                else if (text) this.say(tr("This preset is for another architecture."));
            });
            return this.select;
        }

        fillPresets() {
            this.select.replaceChildren(new Option(tr("Preset…"), ""));
            for (const [label, prefix, names] of [[tr("My presets"), "own:", Object.keys(this.data.own)],
                [tr("Known presets"), "", Object.keys(this.data.presets)],
                [tr("Time embedding as in"), "place:", Object.keys(this.data.places)]]) {
                if (!names.length) continue;
                const group = element("optgroup", "", undefined, {label});
                for (const name of names) group.append(new Option(name, prefix + name));
                this.select.append(group);
            }
        }

        // Programs differ in which block's weight the time and label embeddings get: "A" leaves them as A has them,
        // nothing is the rule here, where they follow IN00.
        placeAsIn(program) {
            const moves = this.data.places[program];
            this.act(() => {
                const found = {};
                for (const block in moves) found[block] = moves[block] === "A" ? 0 : this.value(moves[block]);
                if (Object.keys(moves).length) this.set(found);
                else delete this.active.own.TIME;
            });
            this.say(tr("The time embedding has the weight {value} now.", {value: weights().round(this.value("TIME"))}));
        }

        savingForm() {
            this.form = element("form", "ms-saving");
            this.form.hidden = true;
            this.nameField = element("input", "ms-preset-name", undefined, {
                type: "text", maxlength: "64", placeholder: tr("Name of the preset"), "aria-label": tr("Name of the preset"),
            });
            this.form.append(this.nameField);
            this.button(this.form, tr("Save"), () => this.keepPreset(true));
            this.button(this.form, tr("Delete"), () => this.keepPreset(false));
            this.form.addEventListener("submit", event => { event.preventDefault(); this.keepPreset(true); });
            this.form.addEventListener("keydown", event => { if (event.key === "Escape") this.toggleSaving(); });
            return this.form;
        }

        toggleSaving() {
            this.form.hidden = !this.form.hidden;
            if (!this.form.hidden) this.nameField.focus();
        }

        keepPreset(keep) {
            const name = this.nameField.value.trim();
            const text = this.asText();
            if (!name || (keep && !text)) return this.say(name ? tr("There is nothing to save.") : tr("Give it a name."));
            const ticket = Date.now().toString(36);
            this.asked = {ticket, name, text: keep ? text : ""};
            tell("modelsmith_preset_edit", {...this.asked, layout: this.data.layout});
        }

        // Where the server has refused a preset, the reason stands there, and the form stays open.
        takeAnswer() {
            const answer = byId("modelsmith_preset_said");
            if (!this.asked || !answer?.querySelector(`[data-ticket="${this.asked.ticket}"]`)) return;
            const {name, text} = this.asked;
            this.asked = null;
            if (answer.querySelector(".ms-error")) return;
            if (text) this.data.own[name] = text;
            else delete this.data.own[name];
            this.fillPresets();
            if (!this.form.hidden) this.toggleSaving();
            this.say(text ? tr("Saved.") : tr("Deleted."));
        }

        say(text) {
            this.said.textContent = text;
            clearTimeout(this.saying);
            this.saying = setTimeout(() => { this.said.textContent = ""; }, 4000);
        }

        // Values

        bounds() {
            const {low, high} = sliderOf(this.active.slider);
            const row = Object.values(this.active.own);
            return {low: Math.min(low, ...row), high: Math.max(high, ...row)};
        }

        value(name, layer = this.active) {
            if (name in layer.own) return layer.own[name];
            const parent = this.follows.get(name);
            return parent ? this.value(parent, layer) : layer.base === null ? 0.5 : layer.base;
        }

        isOwn(name) { return name in this.active.own; }

        otherValue(name) {
            const other = this.layers.find(layer => layer !== this.active && Object.keys(layer.own).length);
            return other ? this.value(name, other) : null;
        }

        heat(name) {
            const found = this.difference && this.difference.blocks[name];
            return found ? (found.relative_l2 || 0) / this.difference.most : null;
        }

        describe(block) {
            const parts = [block.id, block.title, this.layers.length > 1 ? this.active.label : "",
                String(weights().round(this.value(block.id))), block.holds];
            const found = this.difference && this.difference.blocks[block.id];
            if (found && found.relative_l2 !== null) parts.push(tr("differs by {percent} %", {percent: percentText(found.relative_l2)}));
            return parts.filter(Boolean).join(" · ");
        }

        tell(block) {
            this.told = block;
            this.info.textContent = block ? this.describe(block)
                : tr("Drag across the bars, or use the arrow keys. Empty means the same weight everywhere.");
        }

        choose(layer) {
            this.active = layer;
            this.bars.draw();
            this.drawState();
        }

        // Changes. begin() keeps what is there, set() shows, commit() writes it to the field.

        texts() { return this.layers.map(layer => fieldOf(layer.text)?.value || ""); }

        begin() {
            this.catchUp();
            this.before = this.texts();
        }

        set(row) {
            const layer = this.active;
            if (!Object.keys(layer.own).some(name => this.data.order.includes(name))
                && Object.keys(row).some(name => this.data.order.includes(name))) {
                // The first bar that is set gives all the others the value that they have shown.
                for (const name of this.data.order) layer.own[name] = this.value(name);
            }
            Object.assign(layer.own, row);
            this.bars.draw();
            this.drawState();
        }

        commit() {
            const text = weights().write(this.active.own, this.data);
            this.active.seen = text;
            this.active.unread = false;
            if (this.before && this.before[this.layers.indexOf(this.active)] !== text) {
                this.undone.push(this.before);
                if (this.undone.length > UNDO_KEPT) this.undone.shift();
                this.redone = [];
            }
            this.before = null;
            write(fieldOf(this.active.text), text);
            this.bars.draw();
            this.drawState();
        }

        act(change) {
            this.begin();
            change();
            this.commit();
        }

        unset(name) {
            if (!this.data.order.includes(name)) this.act(() => { delete this.active.own[name]; });
        }

        bend(name) {
            const reach = this.bars.reach();
            const row = reach.map(block => this.value(block));
            const bent = weights().curve(name, row, {...this.bounds(), factor: Number(this.factor.value) || 0});
            this.act(() => this.set(Object.fromEntries(reach.map((block, at) => [block, bent[at]]))));
        }

        clear() { this.act(() => { this.active.own = {}; }); }

        restore(from, to) {
            if (!from.length) return;
            to.push(this.texts());
            const texts = from.pop();
            this.layers.forEach((layer, at) => write(fieldOf(layer.text), texts[at]));
            this.follow();
        }

        undo() { this.restore(this.undone, this.redone); }

        redo() { this.restore(this.redone, this.undone); }

        // The clipboard

        asText() { return weights().write(this.active.own, this.data); }

        copy() {
            const text = this.asText() || weights().write(Object.fromEntries(
                this.data.order.map(name => [name, this.value(name)])), this.data);
            const done = () => this.say(tr("Copied."));
            const byHand = () => this.say(tr("The browser does not allow it: copy the text field below."));
            if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, byHand);
            else byHand();
        }

        pasteFromClipboard() {
            const byHand = () => this.say(tr("The browser does not allow it: use Ctrl+V on the bars."));
            if (navigator.clipboard && navigator.clipboard.readText) {
                navigator.clipboard.readText().then(text => this.paste(text), byHand);
            } else byHand();
        }

        paste(text) {
            const found = weights().pasted(text, this.data);
            if (!found) return this.say(tr("These are no weights for {layout}.", {layout: this.data.label}));
            this.act(() => { this.active.own = found; });
            this.say(tr("Pasted."));
        }

        // Called often; a bar that is being moved or typed is left alone.
        follow() {
            this.takeAnswer();
            if (!this.bars.stroke && !this.bars.typed) this.catchUp();
        }

        // Brings the bars in line with the text fields and the sliders; draws only on a change. Also before a change by
        // hand, which would otherwise undo what a remedy or a recipe has just put into a field.
        catchUp() {
            let changed = this.takeDifference();
            for (const layer of this.layers) {
                const field = fieldOf(layer.text), slider = sliderOf(layer.slider);
                const base = slider.value + "/" + slider.low + "/" + slider.high;
                if (!field || (field.value === layer.seen && base === layer.slid)) continue;
                Object.assign(layer, {seen: field.value, slid: base, base: slider.value});
                const found = weights().parse(field.value, this.data);
                layer.unread = found === undefined;
                layer.own = found || {};
                changed = true;
            }
            if (!changed) return;
            this.bars.draw();
            this.drawState();
        }

        takeDifference() {
            const holder = root().querySelector(".ms-difference-data");
            const text = holder ? holder.dataset.map : "";
            if (text === this.mapText) return false;
            this.mapText = text;
            const map = text ? JSON.parse(text) : null;
            this.difference = null;
            if (map && map.layout === this.data.layout) {
                const most = Math.max(...Object.values(map.blocks).map(block => block.relative_l2 || 0), 1e-12);
                this.difference = {blocks: map.blocks, most};
            }
            this.holder.classList.toggle("ms-with-map", Boolean(this.difference));
            this.tell(this.told);
            return true;
        }

        drawState() {
            const layer = this.active, own = Object.keys(layer.own).length > 0;
            this.holder.classList.toggle("ms-plain", !own);
            this.holder.classList.toggle("ms-unread", layer.unread);
            this.undoButton.disabled = !this.undone.length;
            this.redoButton.disabled = !this.redone.length;
            this.state.textContent = layer.unread ? tr("as written below") : own ? tr("own weights") : tr("same everywhere");
            for (const one of this.layers) {
                one.button?.setAttribute("aria-pressed", String(one === layer));
                this.markSlider(one, this.covers(one));
            }
        }

        // Whether each block has a weight of its own, or follows one that has: then the slider counts nowhere.
        covers(layer) {
            const owned = name => name in layer.own || (this.follows.get(name) ? owned(this.follows.get(name)) : false);
            return [...this.data.main, ...this.data.side].every(block => owned(block.id));
        }

        markSlider(layer, idle) {
            const holder = byId(layer.slider);
            if (!holder) return;
            holder.classList.toggle("ms-idle", idle);
            holder.title = idle ? tr("Each block has a weight of its own, so this one counts nowhere.") : "";
        }

        // The place is drawn anew, for another model or method.
        release() { for (const layer of this.layers) this.markSlider(layer, false); }
    }

    const editors = new Map();

    onTend(() => {
        for (const [holder, editor] of editors) {
            if (holder.isConnected) continue;
            editor.release();
            editors.delete(holder);
        }
        root().querySelectorAll(".ms-blocks[data-editor]").forEach(holder => {
            if (!editors.has(holder) && window.ModelsmithWeights) editors.set(holder, new BlockEditor(holder));
        });
        editors.forEach(editor => { if (editor.holder.offsetParent) editor.follow(); });
    });
})();
