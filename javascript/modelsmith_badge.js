// The badge beside the webui's checkpoint selector. On A1111 the selector has an id, on Forge only a class.

(function() {
    "use strict";

    const {root, byId, tr, besideLabel, element, pageData, ask, onTend} = window.Modelsmith;

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
        const words = report.badge.split(" · ").map(word => tr(word)).join(" · ");
        besideLabel(holder, badge, words, words.split(" ")[0]);
        badge.title = badgeTooltip(report);
        badge.setAttribute("role", "note");
        badge.setAttribute("aria-label", words);
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

    onTend(() => tendBadge(false));
})();
