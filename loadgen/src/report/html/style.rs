//! The look: system fonts, aligned numerals, colours of Okabe and Ito that survive colour blindness and grey print.

pub(super) const CSS: &str = r#"
:root{--paper:#fff;--ink:#1b1f24;--soft:#5c6670;--rule:#e3e7eb;--grid:#eceff2;--tile:#f6f8fa;
--a:#0072b2;--b:#00795a;--c:#c24f00;--d:#7b8794;--fault:#cc79a7;--warm:#9aa5b1;--shade:#1b1f2447;
--good:#00694f;--goodbg:#e2f4ee;--warn:#7a5200;--warnbg:#fdf1d8;--bad:#a63200;--badbg:#fde8df}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e8ebee;--soft:#9aa5b1;--rule:#2c3238;--grid:#23282d;--tile:#1c2024;
--a:#56b4e9;--b:#2ec4a0;--c:#ff9152;--d:#8a96a3;--fault:#d98fb8;--warm:#6b7681;--shade:#e8ebee55;
--good:#5fd9b8;--goodbg:#12312a;--warn:#f3c566;--warnbg:#352a12;--bad:#ff9f75;--badbg:#3a1d12}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums lining-nums}
main{max-width:1120px;margin:0 auto;padding:32px 28px 56px}
h1{font-size:30px;line-height:1.15;letter-spacing:-.015em;margin:14px 0 6px;overflow-wrap:anywhere}
h2{font-size:16px;letter-spacing:-.005em;margin:0 0 8px}
section{margin-top:36px}
.sub{color:var(--soft);margin:0;overflow-wrap:anywhere}
.verdict{display:flex;gap:12px;align-items:baseline;margin:0;padding:10px 16px;border-radius:8px;flex-wrap:wrap}
.verdict b{font-size:17px;letter-spacing:.04em;text-transform:uppercase}
.valid{background:var(--goodbg);color:var(--good)}.suspect{background:var(--warnbg);color:var(--warn)}.invalid{background:var(--badbg);color:var(--bad)}
.reasons{margin:14px 0 0;padding-left:20px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px;margin:24px 0 0}
.tiles div{background:var(--tile);border-radius:8px;padding:12px 16px}
dt{color:var(--soft);font-size:13px}dd{margin:0;font-size:25px;font-weight:600;letter-spacing:-.01em;line-height:1.25}
dd.note{font-size:12.5px;font-weight:400;color:var(--soft);letter-spacing:0}
table{border-collapse:collapse;width:100%;font-size:14px}
table.narrow{width:auto;min-width:340px}
th,td{padding:5px 0 5px 18px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap;vertical-align:baseline;font-weight:400}
th:first-child,td:first-child{padding-left:0}
thead th{color:var(--soft);font-size:12.5px;border-bottom-color:var(--soft)}
th[scope=row],td.l,th.l,thead th:first-child{text-align:left}
tr.main td,tr.main th{font-weight:600}tr.main small{font-weight:400}
th small{display:block;color:var(--soft);font-size:12px}
td sup{line-height:0;color:var(--soft);margin-right:-.45em}
.note,.caption{color:var(--soft)}.caption{font-size:12.5px;margin:8px 0 0;max-width:76ch}
.pass{color:var(--good)}.fail{color:var(--bad)!important}.pass,.fail{font-weight:600}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(380px,100%),1fr));gap:36px}.two>div{min-width:0}
.scroll{overflow-x:auto;overflow-y:hidden;background:linear-gradient(90deg,var(--paper) 12px,transparent 40px) 0 0/40px 100% no-repeat local,linear-gradient(270deg,var(--paper) 12px,transparent 40px) 100% 0/40px 100% no-repeat local,linear-gradient(90deg,var(--shade),transparent) 0 0/14px 100% no-repeat scroll,linear-gradient(270deg,var(--shade),transparent) 100% 0/14px 100% no-repeat scroll}
.scroll+.scroll,.caption+.scroll{margin-top:18px}
.scroll:focus-visible{outline:2px solid var(--a);outline-offset:3px}
a{color:var(--a)}td.wrap{white-space:normal}td small{color:var(--soft)}
.verdict+.verdict{margin-top:8px}.verdict code{color:inherit}
pre{background:var(--tile);border-radius:8px;padding:12px 16px;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:12px;fill:var(--soft)}
.grid{stroke:var(--grid);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.a{stroke:var(--a)}.b{stroke:var(--b)}.c{stroke:var(--c)}.d{stroke:var(--d);stroke-dasharray:5 4}
svg text.name{font-weight:600;font-size:12.5px;stroke:none;stroke-dasharray:none}
text.name.a{fill:var(--a)}text.name.b{fill:var(--b)}text.name.c{fill:var(--c)}text.name.d{fill:var(--d)}
.band{opacity:.2}.band.fault{fill:var(--fault)}.band.warm{fill:var(--warm)}
.edge{stroke:var(--fault);stroke-width:1;stroke-dasharray:2 3}.edge.warm{stroke:var(--warm)}
svg text.bandname{fill:var(--ink);font-size:11.5px}
.legend{display:none;flex-wrap:wrap;gap:2px 16px;margin:0 0 6px;font-size:13px;font-weight:600}
.key::before{content:"";display:inline-block;width:18px;margin-right:6px;vertical-align:.28em;border-top:3px solid}.key.d::before{border-top-style:dashed}
.key.a{color:var(--a)}.key.b{color:var(--b)}.key.c{color:var(--c)}.key.d{color:var(--soft)}
.tip{fill:transparent}.tip:hover{fill:var(--ink);fill-opacity:.07}
@media (max-width:700px){.legend{display:flex}main{padding:20px 14px}h1{font-size:24px}.tiles{grid-template-columns:repeat(auto-fit,minmax(140px,1fr))}svg{min-width:760px}svg text,svg text.name,svg text.bandname{font-size:15px}table.narrow{min-width:0}.note{white-space:normal}}
@media print{:root{--paper:#fff;--ink:#000;--soft:#444;--rule:#ccc;--grid:#e8e8e8;--tile:#f4f4f4;--a:#0072b2;--b:#00795a;--c:#c24f00;--d:#666;--fault:#cc79a7;--warm:#999;
--good:#00694f;--goodbg:#fff;--warn:#7a5200;--warnbg:#fff;--bad:#a63200;--badbg:#fff}
body{font-size:11pt;-webkit-print-color-adjust:exact;print-color-adjust:exact}main{max-width:none;padding:0}.tiles{grid-template-columns:repeat(5,1fr)}.tiles div{padding:8px 10px}dd{font-size:18px}section,.tiles,.scroll,tr{break-inside:avoid}section{margin-top:22px}.scroll{overflow:visible;background:none}table{font-size:9pt}th,td{padding-left:10px;white-space:normal}td{white-space:nowrap}svg{min-width:0}.legend{display:none}th small{display:none}.verdict{border:2px solid currentColor}.tip{display:none}@page{margin:14mm}}
"#;
