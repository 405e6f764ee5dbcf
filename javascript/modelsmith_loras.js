// The rows of LoRAs to bake in: file, strength, block weights. The rows are kept as JSON in a field out of sight, and
// follow it, so that a recipe can fill them.

(function() {
    "use strict";

    const {root, tr, element, write, fieldOf, onTend} = window.Modelsmith;
    let lists = 0;

    class LoraRows {
        constructor(holder) {
            this.holder = holder;
            this.field = () => fieldOf(holder.dataset.text);
            this.seen = null;
            this.rows = [];
            this.list = element("datalist", "", undefined, {id: "modelsmith_lora_names_" + (lists += 1)});
            for (const name of JSON.parse(holder.dataset.names)) this.list.append(element("option", "", undefined, {value: name}));
            this.place = element("div", "ms-lora-place");
            this.add = element("button", "ms-mini", tr("Add a LoRA"), {type: "button"});
            this.add.addEventListener("click", () => {
                this.rows.push({name: "", strength: 1, blocks: ""});
                this.draw();
                this.place.lastElementChild.querySelector("input").focus();
            });
            const empty = this.list.children.length ? "" : tr("There are no LoRA files in the host's folders.");
            holder.replaceChildren(this.list, this.place, this.add, element("span", "ms-blocks-said", empty));
            this.follow();
        }

        draw() {
            this.place.replaceChildren(...this.rows.map((row, index) => this.row(row, index)));
        }

        row(row, index) {
            const line = element("div", "ms-lora-row", undefined, {role: "group", "aria-label": tr("LoRA") + " " + (index + 1)});
            const name = element("input", "ms-lora-name", undefined, {
                type: "text", list: this.list.id, placeholder: tr("Name of the LoRA"), "aria-label": tr("Name of the LoRA"),
            });
            const strength = element("input", "ms-lora-strength", undefined, {
                type: "number", step: "0.05", "aria-label": tr("Strength"), title: tr("Strength"),
            });
            const slide = element("input", "ms-lora-slide", undefined, {
                type: "range", min: "-1", max: "2", step: "0.05", "aria-label": tr("Strength"), tabindex: "-1",
            });
            const blocks = element("input", "ms-lora-blocks", undefined, {
                type: "text", placeholder: tr("Block weights"), "aria-label": tr("Block weights"),
                title: tr("Block weights: empty, a preset or numbers"),
            });
            const remove = element("button", "ms-mini", "✕", {type: "button", "aria-label": tr("Remove"), title: tr("Remove")});
            name.value = row.name;
            strength.value = slide.value = String(row.strength);
            blocks.value = row.blocks;
            name.addEventListener("change", () => this.change(row, {name: name.value.trim()}));
            // While it is empty, or no number yet, the last strength holds.
            strength.addEventListener("input", () => {
                if (strength.value === "") return;
                slide.value = strength.value;
                this.change(row, {strength: Number(strength.value)});
            });
            strength.addEventListener("blur", () => { if (strength.value === "") strength.value = String(row.strength); });
            slide.addEventListener("input", () => {
                strength.value = slide.value;
                this.change(row, {strength: Number(slide.value)});
            });
            blocks.addEventListener("change", () => this.change(row, {blocks: blocks.value.trim()}));
            remove.addEventListener("click", () => {
                this.rows.splice(this.rows.indexOf(row), 1);
                this.commit();
                this.draw();
                this.add.focus();
            });
            line.append(name, strength, slide, blocks, remove);
            return line;
        }

        change(row, part) {
            Object.assign(row, part);
            this.commit();
        }

        commit() {
            const named = this.rows.filter(row => row.name);
            this.seen = named.length ? JSON.stringify(named) : "";
            write(this.field(), this.seen);
        }

        follow() {
            const field = this.field();
            if (!field || field.value === this.seen) return;
            this.seen = field.value;
            let found = [];
            try {
                found = JSON.parse(field.value || "[]");
            } catch {
                return;  // the summary says that the text cannot be read
            }
            this.rows = found.map(row => ({name: row.name || "", strength: row.strength ?? 1, blocks: row.blocks || ""}));
            this.draw();
        }
    }

    const known = new Map();

    onTend(() => {
        for (const holder of known.keys()) if (!holder.isConnected) known.delete(holder);
        root().querySelectorAll(".ms-loras").forEach(holder => {
            if (!known.has(holder)) known.set(holder, new LoraRows(holder));
            known.get(holder).follow();
        });
    });
})();
