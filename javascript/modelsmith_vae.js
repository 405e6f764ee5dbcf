// Beside the VAE selector: which VAE is in use and whether it fits; in its list, which ones do not. A click on the mark
// opens a small panel in which a user can say what a VAE is, or that it is to be used anyway.

(function() {
    "use strict";

    const {root, tr, ask, besideLabel, element} = window.Modelsmith;

    const STYLE = `
        .ms-vae-holder { position: relative; }
        .ms-vae-holder .ms-vae-mark {  /* stronger than what the page says of every button */
            position: absolute; top: 2px; right: 6px; z-index: 3; max-width: calc(100% - 12px); overflow: hidden;
            text-overflow: ellipsis; white-space: nowrap; padding: 0 7px; border-radius: 999px; font-size: 11px;
            line-height: 17px; cursor: pointer; border: 1px solid #15803d; color: #15803d;
            background: var(--background-fill-primary, #fff);
        }
        .dark .ms-vae-holder .ms-vae-mark { border-color: #4ade80; color: #4ade80; }
        .ms-vae-holder .ms-vae-mark.ms-vae-unsure { border-color: #667085; color: #667085; }
        .dark .ms-vae-holder .ms-vae-mark.ms-vae-unsure { border-color: #a4abb8; color: #a4abb8; }
        .ms-vae-holder .ms-vae-mark.ms-vae-warned { border-color: #b45309; color: #b45309; }
        .dark .ms-vae-holder .ms-vae-mark.ms-vae-warned { border-color: #fbbf24; color: #fbbf24; }
        .ms-vae-panel {
            position: absolute; top: 22px; right: 6px; z-index: 1000; width: min(30rem, 90vw); padding: 10px 12px;
            max-height: 60vh; overflow: auto;
            border: 1px solid var(--border-color-primary, #d4d4d8); border-radius: 8px; font-size: 13px;
            color: var(--body-text-color, #18181b); background: var(--background-fill-primary, #fff);
            box-shadow: 0 6px 24px rgba(0, 0, 0, .18);
        }
        .ms-vae-panel p { margin: 0 0 6px; overflow-wrap: anywhere; }
        .ms-vae-panel table { width: 100%; border-collapse: collapse; }
        .ms-vae-panel td { padding: 3px 6px 3px 0; vertical-align: middle; overflow-wrap: anywhere; }
        .ms-vae-panel select, .ms-vae-panel button {
            font-size: 12px; padding: 2px 6px; border: 1px solid var(--border-color-primary, #d4d4d8);
            border-radius: 6px; color: inherit; background: var(--background-fill-secondary, #f4f4f5);
        }
        .ms-vae-wrong { opacity: .55; text-decoration: line-through; }
    `;

    // A1111 and Neo give the selector an id; Forge's is the list of several values beside the checkpoint selector.
    function selector() {
        const bar = root().querySelector("#quicksettings");
        if (!bar) return null;
        const named = bar.querySelector("#setting_sd_vae, #setting_sd_modules");
        if (named) return named;
        if (!bar.querySelector("#forge_refresh_checkpoint")) return null;
        const others = Array.from(bar.querySelectorAll(".gradio-dropdown")).filter(
            found => !found.classList.contains("model_selection"));
        return others.find(found => found.querySelector(".token, .multiselect")) || others[0] || null;
    }

    function values() {
        const bar = root().querySelector("#quicksettings");
        if (!bar) return "";
        const fields = Array.from(bar.querySelectorAll("input")).map(field => field.value);
        const tokens = Array.from(bar.querySelectorAll(".token")).map(token => token.textContent);
        return fields.concat(tokens).join("\n");
    }

    let state = null; // the last answer about the VAE in use
    let seen = null; // the values of the selectors when it was asked for
    let due = 0; // the time from which to ask again, 0 for not at all

    function fetchState() {
        seen = values();
        due = 0;
        ask("vae").then(found => {
            state = found.enabled ? found.vae : null;
            // A webui takes its time to load; a model that waits for its turn is asked about again.
            if (state && state.pending) due = Date.now() + 1500;
            show();
        }, () => { state = null; show(); });
    }

    function sign() {
        if (state.refused.length || state.fit === "does_not_fit") return "⚠";
        return state.fit === "fits" ? "✓" : "";
    }

    function show() {
        const holder = selector();
        if (!holder) return;
        let mark = holder.querySelector(".ms-vae-mark");
        if (!state) {
            if (mark) mark.remove();
            return;
        }
        if (!mark) {
            mark = element("button", "ms-vae-mark");
            mark.type = "button";
            mark.addEventListener("click", event => {
                event.preventDefault();
                event.stopPropagation();
                togglePanel(holder);
            });
            holder.classList.add("ms-vae-holder");
            holder.append(mark);
        }
        besideLabel(holder, mark, [sign(), state.short].filter(Boolean).join(" "), sign() || "?");
        mark.title = state.sentences.join("\n");
        mark.setAttribute("aria-label", state.sentences.join(" "));
        mark.classList.toggle("ms-vae-warned", Boolean(state.refused.length) || state.fit === "does_not_fit");
        mark.classList.toggle("ms-vae-unsure", state.fit === "unsure");
    }

    function tell(body) {
        return ask("vae", body).then(found => {
            state = found.vae;
            show();
            const holder = selector();
            if (holder) openPanel(holder);
        }, () => fetchState());
    }

    function familySelect(file) {
        const chosen = element("select");
        chosen.title = tr("What this VAE belongs to, if you know better");
        chosen.setAttribute("aria-label", chosen.title);
        chosen.append(new Option(tr("as found"), "auto"));
        for (const id in state.families) chosen.append(new Option(state.families[id], id));
        chosen.value = file.said || "auto";
        chosen.addEventListener("change", () => tell({name: file.name, family: chosen.value}));
        return chosen;
    }

    function allowButton(file) {
        const button = element("button", "", file.allowed ? tr("No longer use it") : tr("Use it anyway"));
        button.type = "button";
        button.addEventListener("click", () => tell({name: file.name, allow: !file.allowed}));
        return button;
    }

    function openPanel(holder) {
        holder.querySelectorAll(".ms-vae-panel").forEach(panel => panel.remove());
        const panel = element("div", "ms-vae-panel");
        panel.addEventListener("click", event => event.stopPropagation());
        state.sentences.forEach(line => panel.append(element("p", "", line)));
        const table = element("table");
        for (const file of state.files) {
            const row = table.insertRow();
            row.insertCell().textContent = file.name;
            row.insertCell().textContent = [file.family, file.fit_text].filter(Boolean).join(" · ");
            row.title = file.evidence.concat(file.problem ? [file.problem] : []).join("\n");
            row.insertCell().append(familySelect(file));
            const last = row.insertCell();
            if (file.fit === "does_not_fit") last.append(allowButton(file));
        }
        panel.append(table);
        holder.append(panel);
    }

    function togglePanel(holder) {
        const open = holder.querySelector(".ms-vae-panel");
        if (open) open.remove();
        else if (state) openPanel(holder);
    }

    // The entries of the open list, which hang in the holder (gradio 3) or at the end of the page (gradio 4).
    function markEntries() {
        if (!state) return;
        const wrong = new Map();
        for (const file of state.files) if (file.fit === "does_not_fit" && !file.allowed) wrong.set(file.name, file);
        root().querySelectorAll("ul.options li").forEach(entry => {
            const name = entry.textContent.replace("✓", "").trim();
            const file = wrong.get(name);
            entry.classList.toggle("ms-vae-wrong", Boolean(file));
            if (file) entry.title = file.family + " · " + file.fit_text;
        });
    }

    function tend() {
        const holder = selector();
        if (!holder || !root().querySelector(".ms-page")) return;
        if (values() !== seen) {
            seen = values();
            // The choice travels to the webui first, and the model is changed after that.
            due = Date.now() + (state ? 700 : 0);
        }
        if (due && Date.now() >= due) fetchState();
        markEntries();
    }

    document.addEventListener("click", () => {
        root().querySelectorAll(".ms-vae-panel").forEach(panel => panel.remove());
    });

    if (typeof onUiLoaded === "function") {
        onUiLoaded(function() {
            const style = element("style");
            style.textContent = STYLE;
            document.head.append(style);
            tend();
            // Values of fields change without a trace in the page; looking twice a second costs nothing.
            setInterval(tend, 500);
        });
    }
})();
