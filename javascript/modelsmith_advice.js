// Tells the panels in txt2img and img2img which checkpoint is chosen, so that their advice is about that one and choices
// for another one end. The selector's own events do not reach them: the webui builds it after the panels.

(function() {
    "use strict";

    const {root, byId, fieldOf, note, onTend} = window.Modelsmith;

    const PANELS = ["modelsmith_txt2img_checkpoint", "modelsmith_img2img_checkpoint"];
    let told = null;

    onTend(() => {
        const holder = byId("setting_sd_model_checkpoint") || root().querySelector("#quicksettings .model_selection, .model_selection");
        const field = holder && holder.querySelector("input");
        if (!field || !PANELS.every(id => fieldOf(id))) return;
        // While somebody types in it, the field holds a search, not a choice.
        if (document.activeElement === field && field.getAttribute("aria-expanded") === "true") return;
        const name = field.value.trim();
        if (!name || name === told) return;
        const begins = told === null;
        told = name;
        PANELS.forEach(id => note(id, {name: name, begins: begins}));
    });
})();
