{{/* One value of the configuration as text, or DEFAULT if it is not given: (list . DEFAULT KEY …), with a key for each step. What was left empty, also on the way there, is not given;
0 is. */}}
{{- define "tertulia.given" -}}
{{- $here := (index . 0).Values.config }}
{{- range slice . 2 }}
{{- if and (kindIs "map" $here) (hasKey ($here | default dict) .) }}
{{- $here = get $here . }}
{{- else }}
{{- $here = "" }}
{{- end }}
{{- end }}
{{- if or (kindIs "invalid" $here) (eq (toString $here) "") }}
{{- index . 1 }}
{{- else if kindIs "float64" $here }}
{{- /* Large numbers would become 1e+08. */}}
{{- eq $here (floor $here) | ternary (int64 $here) $here }}
{{- else }}
{{- $here }}
{{- end }}
{{- end }}

{{/* Takes out of a map, in place, what was left empty, and what is empty then: the server is told nothing of it. */}}
{{- define "tertulia.prune" -}}
{{- $map := . }}
{{- range $key, $value := . }}
{{- if kindIs "invalid" $value }}
{{- $_ := unset $map $key }}
{{- else if kindIs "map" $value }}
{{- include "tertulia.prune" $value }}
{{- if not $value }}
{{- $_ := unset $map $key }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* One address of the configuration: (list . "chat"). */}}
{{- define "tertulia.address" -}}
{{- $part := index . 1 }}
{{- $address := include "tertulia.given" (list (index . 0) "" $part "address") }}
{{- if not (regexMatch ":[1-9][0-9]*$" $address) }}
{{- fail (printf "config.%s.address must be IP:PORT with a port that is not 0, not '%v'" $part $address) }}
{{- end }}
{{- $address }}
{{- end }}

{{- define "tertulia.port" -}}
{{- include "tertulia.address" . | splitList ":" | last }}
{{- end }}

{{/* Not empty if only the pod itself reaches the address: (list . "admin"). */}}
{{- define "tertulia.isLoopback" -}}
{{- if regexMatch "^(127\\.|\\[::1\\]|\\[::ffff:127\\.)" (include "tertulia.address" .) }}yes{{ end }}
{{- end }}

{{- define "tertulia.adminExposed" -}}
{{- if not (include "tertulia.isLoopback" (list . "admin")) }}yes{{ end }}
{{- end }}

{{- define "tertulia.engine" -}}
{{- include "tertulia.given" (list . "embedded" "log" "engine") }}
{{- end }}

{{/* Where messages are: claim (a PersistentVolumeClaim), emptyDir, or none (the engine keeps nothing on disk). */}}
{{- define "tertulia.storage" -}}
{{- if ne (include "tertulia.engine" .) "embedded" }}none
{{- else if .Values.persistence.enabled }}claim
{{- else }}emptyDir
{{- end }}
{{- end }}

{{/* Bytes of a size as Kubernetes writes it. */}}
{{- define "tertulia.quantity" -}}
{{- $units := dict "m" 0.001 "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 }}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexFind "[A-Za-z]+$" .)) | int64 }}
{{- end }}

{{/* Bytes of a size as the server takes it, such as 64MiB; nothing if it is none, of which the server has more to say. */}}
{{- define "tertulia.bytes" -}}
{{- $text := toString . | trim | lower | replace "_" "" }}
{{- if regexMatch "^[0-9]+(\\.[0-9]+)? *([kmgtp]i?)?b?$" $text }}
{{- $units := dict "" 1 "k" 1e3 "m" 1e6 "g" 1e9 "t" 1e12 "p" 1e15 "ki" 1024 "mi" 1048576 "gi" 1073741824 "ti" 1099511627776 "pi" 1125899906842624 }}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexFind "[kmgtp]i?b?$" $text | trimSuffix "b")) | int64 }}
{{- end }}
{{- end }}

{{/* Files of the commit log that there must be room for: those that are held ready, and two more. */}}
{{- define "tertulia.segments" -}}
{{- include "tertulia.given" (list . 2 "log" "spare_segments") | int | add 2 }}
{{- end }}

{{/* Not empty if pods are nodes that serve the same groups, with messages in NATS. */}}
{{- define "tertulia.isCluster" -}}
{{- if eq (include "tertulia.engine" .) "nats" }}yes{{ end }}
{{- end }}

{{/* The ports of NATS, with commas between them. */}}
{{- define "tertulia.natsPorts" -}}
{{- $ports := list }}
{{- range splitList "," (include "tertulia.given" (list . "" "nats" "urls")) }}
{{- $ports = append $ports (regexFind ":[0-9]+/?$" (trim .) | trimAll ":/" | default "4222") }}
{{- end }}
{{- $ports | uniq | join "," }}
{{- end }}

{{/* The port of the collector of traces; empty if there is none outside the pod. */}}
{{- define "tertulia.tracesPort" -}}
{{- $endpoint := include "tertulia.given" (list . "" "telemetry" "traces" "endpoint") }}
{{- if and (eq (include "tertulia.given" (list . "false" "telemetry" "traces" "enabled")) "true") (not (regexMatch "^https?://(localhost|127\\.[0-9.]+|\\[::1\\]):" $endpoint)) }}
{{- regexFind ":[0-9]+/?$" $endpoint | trimAll ":/" }}
{{- end }}
{{- end }}

{{/* Whole seconds, rounded up, of a time of the configuration as the server writes it (1m 30s, or 0): (list . SECTION KEY DEFAULT). */}}
{{- define "tertulia.seconds" -}}
{{- $text := include "tertulia.given" (list (index . 0) (index . 3) (index . 1) (index . 2)) }}
{{- if not (regexMatch "^(0|([0-9]+ ?(ms|s|m|h) ?)+)$" $text) }}
{{- fail (printf "config.%s.%s must be a time such as 20s or 1m 30s, not '%s'" (index . 1) (index . 2) $text) }}
{{- end }}
{{- $total := 0 }}
{{- range regexFindAll "[0-9]+ ?(ms|s|m|h)" $text -1 }}
{{- $number := regexFind "^[0-9]+" . | int }}
{{- $unit := regexFind "[a-z]+$" . }}
{{- if eq $unit "ms" }}
{{- $total = add $total (div (add $number 999) 1000) }}
{{- else }}
{{- $total = add $total (mul $number (get (dict "s" 1 "m" 60 "h" 3600) $unit)) }}
{{- end }}
{{- end }}
{{- $total }}
{{- end }}

{{/* The server ends by itself before Kubernetes kills it. */}}
{{- define "tertulia.terminationGracePeriodSeconds" -}}
{{- $seconds := include "tertulia.seconds" (list . "drain" "grace" "20s") | int }}
{{- $given := .Values.terminationGracePeriodSeconds }}
{{- if kindIs "invalid" $given }}
{{- add $seconds 10 }}
{{- else if le (int $given) $seconds }}
{{- fail (printf "terminationGracePeriodSeconds (%d) must be more than config.drain.grace (%ds)" (int $given) $seconds) }}
{{- else }}
{{- int $given }}
{{- end }}
{{- end }}

{{/* Not empty if a port speaks TLS: (list . "http"). */}}
{{- define "tertulia.secure" -}}
{{- if or (get (index . 0).Values.tls (index . 1)).existingSecret (include "tertulia.given" (list (index . 0) "" (index . 1) "tls" "cert_file")) }}yes{{ end }}
{{- end }}

{{/* The file that the server reads: the configuration as it was given, and the places of what is mounted. */}}
{{- define "tertulia.config" -}}
{{- $config := deepCopy .Values.config }}
{{- include "tertulia.prune" $config }}
{{- range $port := list "chat" "admin" "http" }}
{{- if (get $.Values.tls $port).existingSecret }}
{{- if include "tertulia.given" (list $ "" $port "tls" "cert_file") }}
{{- fail (printf "tls.%s.existingSecret and config.%s.tls.cert_file exclude each other" $port $port) }}
{{- end }}
{{- $tls := (get $config $port).tls | default dict }}
{{- $_ := set $tls "cert_file" (printf "/etc/tertulia-tls/%s/tls.crt" $port) }}
{{- $_ := set $tls "key_file" (printf "/etc/tertulia-tls/%s/tls.key" $port) }}
{{- $_ := set (get $config $port) "tls" $tls }}
{{- end }}
{{- end }}
{{- if .Values.tls.admin.clientCASecret }}
{{- if not (include "tertulia.secure" (list . "admin")) }}
{{- fail "tls.admin.clientCASecret needs tls.admin.existingSecret: certificates of callers are shown within TLS" }}
{{- end }}
{{- $_ := set $config.admin "client_ca_file" "/etc/tertulia-tls/admin-clients/ca.crt" }}
{{- end }}
{{- if .Values.admin.existingSecret }}
{{- if include "tertulia.given" (list . "" "admin" "token_file") }}
{{- fail "admin.existingSecret and config.admin.token_file exclude each other" }}
{{- end }}
{{- $_ := set $config.admin "token_file" "/etc/tertulia-admin/token" }}
{{- end }}
{{- include "tertulia.addAuth" (list . $config) }}
{{- if eq (include "tertulia.storage" .) "emptyDir" }}
{{- $log := $config.log | default dict }}
{{- if not (hasKey $log "disk_bytes") }}
{{- /* What the server sees of an emptyDir is the disk of the node. It must refuse posts by itself before Kubernetes evicts the pod, and all messages with it. So: four fifths. */}}
{{- $bound := mulf (include "tertulia.quantity" .Values.persistence.size) 0.8 | int64 }}
{{- if lt $bound 8388608 }}
{{- fail (printf "persistence.size (%s) is too small: the server's files need at least 10Mi" .Values.persistence.size) }}
{{- end }}
{{- $_ := set $log "disk_bytes" $bound }}
{{- /* Files of the commit log may take half of it. In whole MiB, the least that a file may have. */}}
{{- $segment := div $bound (mul 2097152 (include "tertulia.segments" .)) | max 1 }}
{{- if and (lt $segment 64) (not (hasKey $log "segment_bytes")) }}
{{- $_ := set $log "segment_bytes" (mul $segment 1048576) }}
{{- end }}
{{- $_ := set $config "log" $log }}
{{- end }}
{{- end }}
{{- if and (include "tertulia.isCluster" .) (not (hasKey ($config.drain | default dict) "delay")) }}
{{- $drain := $config.drain | default dict }}
{{- $_ := set $drain "delay" (include "tertulia.drainDelay" .) }}
{{- $_ := set $config "drain" $drain }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* How long nodes go on accepting connections once they are to stop, when nothing else is said: the cluster needs a moment to lead clients to the others. */}}
{{- define "tertulia.drainDelay" -}}
{{- if include "tertulia.isCluster" . }}3s{{ else }}0s{{ end }}
{{- end }}
