{{/* The groups of rules that the PrometheusRule of this release has. TertuliaAbsent asks for the pods of this release alone: as it stands in the file it is quiet for as long as any other
release is there. The rest holds for every server that Prometheus knows, so one release brings it for all. */}}
{{- define "tertulia.rules" -}}
{{- $values := .Values.metrics.prometheusRule }}
{{- $name := include "tertulia.fullname" . }}
{{- $shared := ne (toString $values.shared) "false" }}
{{- $groups := list }}
{{- range $path, $_ := .Files.Glob "files/rules/*.yml" }}
{{- range ($.Files.Get $path | replace "runbook_url: docs/" (printf "runbook_url: %sdocs/" ($values.runbookUrl | default "")) | fromYaml).groups }}
{{- $rules := list }}
{{- range .rules }}
{{- if eq (get . "alert") "TertuliaAbsent" }}
{{- if ne (int $.Values.replicas) 0 }}
{{- $_ := set . "expr" (printf "absent(up{namespace=%q, pod=~%q, job=~\".*tertulia.*\"})" $.Release.Namespace (printf "%s-[0-9]+" $name)) }}
{{- /* Otherwise two releases of one namespace would be one alert. */}}
{{- $_ := set .labels "service" (printf "%s-ops" $name) }}
{{- $_ := set .annotations "summary" (printf "Prometheus knows of no pod of %s in %s." $name $.Release.Namespace) }}
{{- $_ := set .annotations "description" "There has been no target of this release for 5 minutes. All of its pods are gone, or they are no longer discovered and no other alert of them can fire." }}
{{- $rules = append $rules . }}
{{- end }}
{{- else if $shared }}
{{- $rules = append $rules . }}
{{- end }}
{{- end }}
{{- if $rules }}
{{- $groups = append $groups (set . "rules" $rules) }}
{{- end }}
{{- end }}
{{- end }}
{{- concat $groups ($values.extraGroups | default list) | default list | toYaml }}
{{- end }}
