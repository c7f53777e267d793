{{/* What would be no cluster. */}}
{{- define "tertulia.validateCluster" -}}
{{- if not (include "tertulia.given" (list . "" "nats" "urls")) }}
{{- fail "config.log.engine is nats: set config.nats.urls to the servers of NATS" }}
{{- end }}
{{- if include "tertulia.given" (list . "" "cluster" "node_id") }}
{{- fail "config.cluster.node_id would be the same in every pod: leave it out, each is told its own name; to tell another, set TERTULIA__CLUSTER__NODE_ID in extraEnv" }}
{{- end }}
{{- $delay := include "tertulia.seconds" (list . "drain" "delay" (include "tertulia.drainDelay" .)) | int }}
{{- $handover := mul 3 (include "tertulia.seconds" (list . "cluster" "handover" "2s") | int) }}
{{- $linger := include "tertulia.seconds" (list . "drain" "linger" "1s") | int }}
{{- $away := include "tertulia.seconds" (list . "drain" "reconnect_after" "5s") | int }}
{{- $needed := add (max $delay $handover) $away $linger 3 }}
{{- $grace := include "tertulia.seconds" (list . "drain" "grace" "20s") | int }}
{{- if lt $grace (int $needed) }}
{{- fail (printf "config.drain.grace (%ds) must be at least %ds, to hand over in time: drain.delay (%ds) or three times cluster.handover (%ds), whichever is longer, drain.reconnect_after (%ds), drain.linger (%ds), and 3s to end" $grace $needed $delay $handover $away $linger) }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if .enabled }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas (%d) must not be more than autoscaling.maxReplicas (%d)" (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- if and (kindIs "invalid" .cpu) (kindIs "invalid" .connections) }}
{{- fail "autoscaling has nothing to go by: set autoscaling.cpu or autoscaling.connections" }}
{{- end }}
{{- $limit := include "tertulia.given" (list $ 65536 "limits" "connections") | int64 }}
{{- if ge (int64 .connections) $limit }}
{{- fail (printf "autoscaling.connections (%d) must be less than config.limits.connections (%d), or pods are full before there are more" (int64 .connections) $limit) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Fields of the service that its type does not have: Kubernetes refuses them, or takes them and does nothing. */}}
{{- define "tertulia.validateService" -}}
{{- $type := .Values.service.type }}
{{- with .Values.service }}
{{- if eq $type "ClusterIP" }}
{{- if .externalTrafficPolicy }}
{{- fail "service.externalTrafficPolicy is for those from outside: it needs service.type NodePort or LoadBalancer" }}
{{- end }}
{{- if (.nodePorts | default dict).chat }}
{{- fail "service.nodePorts.chat needs service.type NodePort or LoadBalancer" }}
{{- end }}
{{- end }}
{{- if ne $type "LoadBalancer" }}
{{- range $name := list "loadBalancerSourceRanges" "loadBalancerClass" }}
{{- if get $.Values.service $name }}
{{- fail (printf "service.%s needs service.type LoadBalancer" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Variables and arguments win over the configuration. What the chart itself takes from there, for ports, probes, volumes, times, network policies and checks of its own, must be said there. */}}
{{- define "tertulia.validateOverrides" -}}
{{- $taken := list "drain\\..+" "(chat|http|admin)\\.(address|tls\\..+)" "chat\\.proxy_protocol" "admin\\.(token_file|client_ca_file|insecure)" "auth\\.(keys_file|users_file|guests)" "log\\.(engine|data_dir|(disk|reserve|segment)_bytes|spare_segments)" "limits\\.connections" "nats\\.urls" "cluster\\.handover" "telemetry\\.traces\\.(enabled|endpoint)" | join "|" | printf "^(%s)$" }}
{{- range .Values.extraEnv }}
{{- if hasPrefix "TERTULIA__" .name }}
{{- $key := .name | trimPrefix "TERTULIA__" | replace "__" "." | lower }}
{{- if regexMatch $taken $key }}
{{- $hint := ternary ", or, for an address that only the pod knows, OTEL_EXPORTER_OTLP_ENDPOINT with networkPolicy.extraEgress" "" (eq $key "telemetry.traces.endpoint") }}
{{- fail (printf "extraEnv: %s would win over the configuration, by which the chart goes: set config.%s instead%s" .name $key $hint) }}
{{- end }}
{{- end }}
{{- end }}
{{- $flags := dict "--chat" "chat.address" "--admin" "admin.address" "--admin-token-file" "admin.token_file" "--admin-insecure" "admin.insecure" "--auth-keys-file" "auth.keys_file" "--auth-users-file" "auth.users_file" "--http" "http.address" "--engine" "log.engine" "--nats-url" "nats.urls" "--data-dir" "log.data_dir" }}
{{- $before := "" }}
{{- range .Values.extraArgs }}
{{- $flag := regexFind "^--[a-z-]+" . }}
{{- $key := "" }}
{{- if hasKey $flags $flag }}
{{- $key = get $flags $flag }}
{{- else if hasPrefix "--set=" . }}
{{- $key = trimPrefix "--set=" . }}
{{- else if eq $before "--set" }}
{{- $key = . }}
{{- end }}
{{- $key = regexFind "^[^=]*" $key | trim }}
{{- if regexMatch $taken $key }}
{{- fail (printf "extraArgs: '%s' would win over the configuration, by which the chart goes: set config.%s instead" . $key) }}
{{- end }}
{{- $before = . }}
{{- end }}
{{- end }}

{{/* A volume on which the server would never get ready, or would refuse posts soon: it keeps log.reserve_bytes free, its files must have room beside them, and the file system takes its share (ext4 up to a tenth), as do the tables. */}}
{{- define "tertulia.validateVolume" -}}
{{- $reserve := include "tertulia.given" (list . "256MiB" "log" "reserve_bytes") }}
{{- $segment := include "tertulia.given" (list . "64MiB" "log" "segment_bytes") }}
{{- if and (include "tertulia.bytes" $reserve) (include "tertulia.bytes" $segment) }}
{{- $files := include "tertulia.segments" . }}
{{- $needed := add (include "tertulia.bytes" $reserve) (mul $files (include "tertulia.bytes" $segment)) | mul 5 | add 3 }}
{{- $needed = div $needed 4 }}
{{- if lt (include "tertulia.quantity" .Values.persistence.size | int64) $needed }}
{{- fail (printf "persistence.size (%s) is too small: config.log.reserve_bytes (%s) stay free, and %s files of config.log.segment_bytes (%s) need room, and a quarter more for the file system and the tables; that is %dMi" .Values.persistence.size $reserve $files $segment (div (add $needed 1048575) 1048576)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* What Kubernetes would refuse to change of a StatefulSet that is there: after Helm has changed the configuration, which the pod that goes on would read at its next start. Labels that are
there and not here may be from what stands behind Helm. */}}
{{- define "tertulia.validateClaims" -}}
{{- $name := include "tertulia.fullname" . }}
{{- with lookup "apps/v1" "StatefulSet" .Release.Namespace $name }}
{{- $there := .spec.volumeClaimTemplates | default list }}
{{- $here := list }}
{{- if eq (include "tertulia.storage" $) "claim" }}
{{- $here = include "tertulia.claims" $ | fromYamlArray }}
{{- end }}
{{- $way := printf "delete the StatefulSet and leave its pod (kubectl --namespace %s delete statefulset %s --cascade=orphan), then do this again" $.Release.Namespace $name }}
{{- if and $there (not $here) }}
{{- fail (printf "messages of this release are on the claim data-%s-0, and config.log.engine '%s' with persistence.enabled '%v' has none; messages are not moved. To keep them install under another name. To go on without them %s" $name (include "tertulia.engine" $) $.Values.persistence.enabled $way) }}
{{- else if and $here (not $there) }}
{{- fail (printf "this release has no claim, and Kubernetes adds none to a StatefulSet that is there; messages are not moved. Install under another name, or %s" $way) }}
{{- else if $here }}
{{- $before := first $there }}
{{- $after := first $here }}
{{- $changed := list }}
{{- range $field, $value := dict "accessModes" "accessModes" "storageClass" "storageClassName" "selector" "selector" }}
{{- if ne (toJson (index $before.spec $value)) (toJson (index $after.spec $value)) }}
{{- $changed = append $changed $field }}
{{- end }}
{{- end }}
{{- if ne (include "tertulia.quantity" $before.spec.resources.requests.storage) (include "tertulia.quantity" $after.spec.resources.requests.storage) }}
{{- $changed = append $changed "size" }}
{{- end }}
{{- range $field := list "labels" "annotations" }}
{{- range $key, $value := get $after.metadata $field | default dict }}
{{- if ne (toString $value) (get (get $before.metadata $field | default dict) $key | toString) }}
{{- $changed = append $changed $field }}
{{- end }}
{{- end }}
{{- end }}
{{- if $changed }}
{{- $first := has "size" $changed | ternary (printf "edit the size of the claim data-%s-0, " $name) "" }}
{{- fail (printf "Kubernetes does not let persistence.%s of an installed release change: %s%s" ($changed | uniq | join ", persistence.") $first $way) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What would come up, and could not be reached or would not be let up. */}}
{{- define "tertulia.validate" -}}
{{- if not (regexMatch "^[a-z]" (include "tertulia.fullname" .)) }}
{{- fail (printf "objects would be called %s, and the name of a Service must begin with a letter: set fullnameOverride" (include "tertulia.fullname" .)) }}
{{- end }}
{{- include "tertulia.validateOverrides" . }}
{{- include "tertulia.validateService" . }}
{{- include "tertulia.validateAuth" . }}
{{- if include "tertulia.isCluster" . }}
{{- include "tertulia.validateCluster" . }}
{{- end }}
{{- if eq (include "tertulia.storage" .) "claim" }}
{{- include "tertulia.validateVolume" . }}
{{- end }}
{{- include "tertulia.validateClaims" . }}
{{- range list "chat" "http" }}
{{- if include "tertulia.isLoopback" (list $ .) }}
{{- fail (printf "config.%s.address is on loopback, where nobody reaches it: use 0.0.0.0:PORT" .) }}
{{- end }}
{{- end }}
{{- $open := eq (include "tertulia.given" (list . "false" "admin" "insecure")) "true" }}
{{- $asks := or .Values.admin.existingSecret .Values.tls.admin.clientCASecret (include "tertulia.given" (list . "" "admin" "token_file")) (include "tertulia.given" (list . "" "admin" "client_ca_file")) }}
{{- if and (include "tertulia.adminExposed" .) (not $asks) (not $open) }}
{{- fail "config.admin.address is not on loopback: set admin.existingSecret to the Secret that holds the token of the admin API, or tls.admin.clientCASecret to the one with the authorities of callers" }}
{{- end }}
{{- end }}
