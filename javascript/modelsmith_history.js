// The History view: rows and buttons tell the server what to do; the queue is asked for anew while something is in it,
// and hashes that are being read are put in as they come.

(function() {
    "use strict";

    const {root, byId, tell, tr, ask, onTend} = window.Modelsmith;
    const FIELD = "modelsmith_history_asked";
    const BUTTONS = ".ms-entry button[data-act], .ms-queue button[data-act]";
    const SURE_FOR = 4000; // milliseconds in which a second press deletes
    // The entries that are marked in the table, and the one that waits for a second one to be compared with.
    let chosen = [], first = "";

    function choose(id) {
        if (first && first !== id) {
            chosen = [first, id];
            tell(FIELD, {act: "compare", id: first, other: id});
        } else {
            chosen = [id];
            tell(FIELD, {act: "show", id: id});
        }
        first = "";
        mark();
    }

    function press(button) {
        const act = button.dataset.act;
        if (act === "compare") return waitForAnother(button);
        if (act === "delete" && !button.dataset.sure) return askTwice(button);
        tell(FIELD, {act: act, id: button.dataset.id});
    }

    function waitForAnother(button) {
        first = button.dataset.id;
        button.textContent = tr("Choose the other one in the table");
        button.classList.add("ms-waits");
    }

    function askTwice(button) {
        const before = button.textContent;
        button.dataset.sure = "1";
        button.textContent = tr("Press again to delete");
        setTimeout(() => {
            delete button.dataset.sure;
            button.textContent = before;
        }, SURE_FOR);
    }

    // The table is drawn anew now and then; what is chosen in it, and how far it is scrolled, stays.
    let scrolled = 0;

    function mark() {
        for (const row of root().querySelectorAll(".ms-history tr[data-id]")) {
            const is = chosen.includes(row.dataset.id);
            row.classList.toggle("ms-chosen", is);
            row.setAttribute("aria-selected", String(is));
        }
        const frame = root().querySelector(".ms-history .ms-table-frame:not([data-heard])");
        if (!frame) return;
        frame.dataset.heard = "1";
        frame.scrollTop = scrolled;
        frame.addEventListener("scroll", () => { if (frame.isConnected) scrolled = frame.scrollTop; });
    }

    // A look-up chooses by itself what it has found.
    function tendChosen() {
        const shown = root().querySelector("#modelsmith_history_detail .ms-entry");
        if (shown && !first && !chosen.includes(shown.dataset.id)) chosen = [shown.dataset.id];
        mark();
    }

    function step(row, key) {
        const next = key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling;
        if (next) next.focus();
    }

    // Tables and entries come and go; one listener for all of them answers from the first moment on.
    function answer(event) {
        const target = event.target;
        if (!target || !target.closest) return;
        const button = target.closest(BUTTONS);
        const row = target.closest(".ms-history tr[data-id]");
        if (button && event.type === "click") press(button);
        if (!row) return;
        if (event.type === "click" || event.key === "Enter" || event.key === " ") choose(row.dataset.id);
        else if (event.key === "ArrowDown" || event.key === "ArrowUp") step(row, event.key);
        else return;
        if (event.type === "keydown") event.preventDefault();
    }

    // The queue may be drawn anew while a button is held down: then the browser makes no click of it.
    let held = null;

    document.addEventListener("pointerdown", event => {
        held = event.target.closest ? event.target.closest(BUTTONS) : null;
    });
    document.addEventListener("pointerup", event => {
        const again = event.target.closest && event.target.closest(BUTTONS);
        const same = held && again && again.dataset.act === held.dataset.act && again.dataset.id === held.dataset.id;
        if (same && !held.isConnected) press(again);
        held = null;
    });
    document.addEventListener("click", answer);
    document.addEventListener("keydown", answer);

    // Hashes

    let asking = false;

    function showHash(entry) {
        for (const place of root().querySelectorAll(`[data-waits="${entry.id}"]`)) {
            if (entry.hash_state === "being_read") continue;
            const digest = entry.sha256 || "";
            place.removeAttribute("data-waits");
            place.textContent = place.matches("td") ? digest.slice(0, 10) || "–" : digest;
            place.title = digest;
        }
    }

    function tendHashes() {
        const view = byId("modelsmith_view_history");
        const waits = view && view.offsetParent ? [...view.querySelectorAll("[data-waits]")] : [];
        const ids = [...new Set(waits.map(place => place.dataset.waits))];
        if (!ids.length || asking) return;
        asking = true;
        Promise.allSettled(ids.slice(0, 8).map(id => ask("history/" + encodeURIComponent(id)).then(showHash)))
            .then(() => { asking = false; });
    }

    // A queue that looks as it did is not drawn anew, so its markup cannot be what asks the next time.
    setInterval(() => {
        const busy = [...root().querySelectorAll(".ms-queue")].some(queue => Number(queue.dataset.busy) > 0);
        if (busy) byId("modelsmith_history_poll")?.click();
        tendHashes();
    }, 700);

    onTend(tendChosen);
})();
