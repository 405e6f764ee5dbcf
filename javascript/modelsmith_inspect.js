// The Inspect view: reads the header of a dropped file, and leads from a message to what can be done about it.

(function() {
    "use strict";

    const {root, byId, fieldOf, tell, onTend} = window.Modelsmith;
    const LIMIT = 16e6; // bytes of a header; those of real models have at most a few million

    // The first eight bytes of a .safetensors file are the length of its header; the weights behind it stay where they are.
    async function headerOf(file) {
        const start = new DataView(await file.slice(0, 9).arrayBuffer());
        const length = start.byteLength >= 8 ? Number(start.getBigUint64(0, true)) : 0;
        const said = {name: file.name, size: file.size, length: Math.min(length, Number.MAX_SAFE_INTEGER), header: ""};
        const braced = start.byteLength === 9 && start.getUint8(8) === 0x7b;
        if (!braced && !/\.(safetensors|sft)$/i.test(file.name)) return {...said, header: null};
        if (!braced || length > LIMIT || 8 + length > file.size) return said;
        const decoder = new TextDecoder("utf-8", {ignoreBOM: true});
        return {...said, header: decoder.decode(await file.slice(8, 8 + length).arrayBuffer())};
    }

    function inspect(files, zone) {
        if (!files || !files.length) return;
        zone.classList.add("ms-busy");
        headerOf(files[0])
            .then(message => tell("modelsmith_inspect_dropped", message))
            .catch(() => tell("modelsmith_inspect_dropped", {name: files[0].name, size: 0, length: 0, header: ""}))
            .finally(() => zone.classList.remove("ms-busy"));
    }

    function tendDrop() {
        root().querySelectorAll(".ms-drop:not([data-heard])").forEach(zone => {
            zone.dataset.heard = "1";
            const field = zone.querySelector("input");
            field.addEventListener("change", () => { inspect(field.files, zone); field.value = ""; });
            zone.addEventListener("dragover", event => {
                event.preventDefault();
                event.stopPropagation();
                zone.classList.add("ms-over");
            });
            zone.addEventListener("dragleave", () => zone.classList.remove("ms-over"));
            zone.addEventListener("drop", event => {
                event.preventDefault();
                event.stopPropagation(); // the webui would take it for a picture
                zone.classList.remove("ms-over");
                inspect(event.dataTransfer.files, zone);
            });
            zone.addEventListener("keydown", event => {
                if (event.key === "Enter" || event.key === " ") { event.preventDefault(); field.click(); }
            });
        });
    }

    function lead(way) {
        const button = byId("modelsmith_link_" + way);
        if (way !== "override") return button && button.click();
        const panel = byId("modelsmith_override");
        if (!panel) return;
        panel.scrollIntoView({block: "center", behavior: "smooth"});
        panel.classList.add("ms-pointed");
        setTimeout(() => panel.classList.remove("ms-pointed"), 1600);
        panel.querySelector("input")?.focus({preventScroll: true});
    }

    function tendWays() {
        const page = byId("modelsmith_inspect_page");
        if (!page || page.dataset.heard) return;
        page.dataset.heard = "1";
        page.addEventListener("click", event => {
            const button = event.target.closest(".ms-way");
            if (button) lead(button.dataset.way);
        });
    }

    // What stands in a place belongs to the choices it was asked for with. Where other ones rest in the fields, it is
    // asked for anew, once for each such state.
    const resting = new Map();

    function tendChosen(place, fields) {
        const answer = byId(place)?.querySelector(".ms-answer-to"), inputs = fields.map(id => fieldOf(id));
        if (!answer || !inputs.every(one => one?.offsetParent && one.getAttribute("aria-expanded") !== "true")) return;
        const chosen = inputs.map(one => one.value).join("\n"), state = [chosen, answer.dataset.chosen].join("\u0001");
        const seen = resting.get(place) || {};
        if (chosen !== answer.dataset.chosen && seen.last === state && seen.asked !== state) {
            seen.asked = state;
            byId("modelsmith_inspect_again")?.click();
        }
        resting.set(place, {...seen, last: state});
    }

    onTend(() => tendChosen("modelsmith_inspect_page", ["modelsmith_inspect_file"]));
    onTend(() => tendChosen("modelsmith_inspect_compared", ["modelsmith_inspect_file", "modelsmith_inspect_other"]));
    onTend(tendDrop);
    onTend(tendWays);
})();
